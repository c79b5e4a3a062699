"""Ranking: scores, placement, near-duplicates, taste. Pure NumPy."""
