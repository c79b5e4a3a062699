"""Measurements of a setting over many generations, on a core of their own."""
