"""Which candidates stop early, and when. Pure NumPy."""
