"""Bytes to values and back, validated once at the edge. Pure: no I/O, no clock, no randomness."""
