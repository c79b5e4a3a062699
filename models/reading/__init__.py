"""What prompts say: a text front for packs, and where things are."""
