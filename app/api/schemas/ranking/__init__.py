"""The ranking in requests and responses, and responses of routes that only rank."""
