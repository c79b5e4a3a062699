"""The life of a generation: submit, record, watch, cancel, delete."""
