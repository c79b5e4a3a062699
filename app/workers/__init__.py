"""Workers of a Ray cluster: applications of models, and a cluster of one machine."""
