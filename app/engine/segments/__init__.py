"""Segments: rows of a generation from one checkpoint to the next, for any device."""
