"""Generations, their event logs and the queue in the SQL database."""

from app.stores.generations.store import SqlGenerationStore

__all__ = ["SqlGenerationStore"]
