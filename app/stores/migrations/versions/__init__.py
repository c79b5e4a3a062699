"""One module a revision, named after it; once released, never edited."""
