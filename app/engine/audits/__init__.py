"""Audits: what a field holds, and what the ranking made of it. Pure NumPy."""
