"""Figures of a pack: prompts, sampling, pixel checks, card."""
