"""Whether a session still answers what was said long before its window."""
