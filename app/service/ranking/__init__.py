"""Ranking without sampling: re-rank, references, taste profiles."""
