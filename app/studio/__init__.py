"""The studio: the page at `/`. `src/` is its source, `dist/` what `make studio` makes of it and the service serves."""
