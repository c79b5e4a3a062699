"""Webhook delivery: dispatch, signature, SSRF-safe client."""
