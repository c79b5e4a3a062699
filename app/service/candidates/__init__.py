"""Stored candidates: arrays, images, explanations."""
