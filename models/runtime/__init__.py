"""Torch plumbing of the adapters: placement, traced calls, row parallelism."""
