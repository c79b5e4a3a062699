"""Adapters of upscalers. Importing this package loads no torch."""
