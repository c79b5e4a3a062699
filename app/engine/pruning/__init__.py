"""Pruning: which candidates stop early, and when. Pure NumPy."""
