"""What a process keeps in memory of the generations that it runs."""
