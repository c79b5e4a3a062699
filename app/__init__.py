"""Frontrunner: the service's rules and its HTTP face; runs and is tested without torch."""

__version__ = "0.1.0"
