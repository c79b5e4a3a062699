"""The studio, the page at `/`: `make studio` builds `dist/` from `src/`."""
