"""The four networks' training loops."""
