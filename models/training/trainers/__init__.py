"""Training loops of the four networks."""
