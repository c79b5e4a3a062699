"""Scorers beside the main one: members that judge finalists, and the referee."""
