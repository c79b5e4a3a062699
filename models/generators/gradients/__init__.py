"""The way from x0 estimates to images with gradients."""
