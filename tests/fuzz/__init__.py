"""Fuzzing of what callers send; see `tests.fuzz.__main__`."""
