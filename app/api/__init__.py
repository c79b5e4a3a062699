"""HTTP API: parses requests, renders responses; imports no engine and no store."""
