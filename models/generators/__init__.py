"""Diffusion models behind the generator protocol; the import loads no torch."""
