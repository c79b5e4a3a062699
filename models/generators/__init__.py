"""Diffusion models behind the generator protocol. Importing this package loads no torch."""
