"""Generations, their event logs and the queue in the SQL database."""

from app.stores.generations.batches import SqlBatchStore
from app.stores.generations.store import SqlGenerationStore

__all__ = ["SqlBatchStore", "SqlGenerationStore"]
