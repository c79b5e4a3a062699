"""Torch plumbing shared by generators and scorers: placement, traced calls, row parallelism."""
