"""ASGI middleware: authentication, request limits, access log."""
