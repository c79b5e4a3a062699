"""What engines share: the facts of their model, and their end."""
