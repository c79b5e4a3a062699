"""NumPy models that implement the protocols without torch."""
