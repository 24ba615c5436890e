"""Only what both services need."""
