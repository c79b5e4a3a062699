"""Frontrunner's application package: HTTP API and rules; runs without torch."""

__version__ = "0.1.0"
