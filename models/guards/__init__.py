"""Guards: image statistics, and text in images. No torch."""
