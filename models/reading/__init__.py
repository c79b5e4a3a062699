"""A text front for packs: Russian, emoji and misspellings become English captions."""
