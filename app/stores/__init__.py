"""Where generations, their logs and their files are kept; the same code for one process and for many."""
