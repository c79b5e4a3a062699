"""Scoring and placement of candidates. Pure NumPy."""
