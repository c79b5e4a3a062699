"""One engine over several workers: each generation is split into segments."""
