"""Attention over a window of 8-bit keys and values as one operator, compiled when SinkServe is installed."""
