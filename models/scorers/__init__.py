"""Image-text models behind the `Embedder` protocol; the import loads no torch."""
