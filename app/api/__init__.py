"""The HTTP face: parses requests into domain values, renders answers. Knows no engine, no store."""
