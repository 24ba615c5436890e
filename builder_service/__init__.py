"""Turns model specs into published engines: spec -> build -> store."""
