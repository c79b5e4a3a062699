"""Training data: icons, scenes, captions, text encodings, races."""
