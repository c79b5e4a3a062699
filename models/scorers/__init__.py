"""Image-text models behind the scorer protocol. Importing this package loads no torch."""
