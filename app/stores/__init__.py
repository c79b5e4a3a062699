"""Stores of generations, event logs and files, for one process or many replicas."""
