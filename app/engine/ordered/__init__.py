"""Images that a generator makes elsewhere: ordered, received, scored."""
