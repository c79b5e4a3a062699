"""Wire types: request bodies and response bodies of the HTTP API."""
