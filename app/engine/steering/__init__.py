"""Steering: device calls that move rows along the gradient of their score."""
