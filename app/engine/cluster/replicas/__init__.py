"""Workers in other processes: replicas of a Ray Serve application."""
