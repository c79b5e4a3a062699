"""Files without a record, left by concurrent deletion or a killed process.

A re-ranking's files precede its record, so a folder is deleted only after it has lacked one for a while.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection

from app.service.candidates.keys import FILES, blob_prefix
from app.stores.protocols import BlobStore, GenerationStore

log = logging.getLogger(__name__)

LOOK_S = 3600.0
"""Seconds between scans of all folders."""

PATIENCE_S = 600.0
"""Seconds a folder may lack a record; far longer than storing takes."""

MARK = "database"
"""Key of the file that names the database; other databases' files are kept."""


async def erase_generation(records: GenerationStore, blobs: BlobStore, generation_id: str) -> None:
    """Delete files, record, and files again.

    If the process dies in between, the record remains for another attempt. A reader of the old record may write a file
    meanwhile; later writers see that the record is gone.
    """
    await blobs.delete_prefix(blob_prefix(generation_id))
    await records.delete(generation_id)
    await blobs.delete_prefix(blob_prefix(generation_id))


class Orphans:
    """Finds and deletes them. `ticks` is monotonic; a new process restarts the wait."""

    def __init__(self, records: GenerationStore, blobs: BlobStore, ticks: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._blobs = blobs
        self._ticks = ticks
        self._next = -math.inf
        self._since: dict[str, float] = {}
        self._foreign = False

    async def sweep(self) -> int:
        """Scan if due; returns the number of deleted folders. Raises StoreUnavailable."""
        now = self._ticks()
        if now < self._next:
            return 0
        named = [name for name in await self._blobs.folders(FILES) if name.startswith("gen_")]
        known = await self._records.existing_ids(named)  # read after the listing: a record precedes its files
        self._next = now + LOOK_S
        if not await self._ours(named, known):
            return 0
        self._since = {name: self._since.get(name, now) for name in named if name not in known}
        gone = [name for name, since in self._since.items() if now - since >= PATIENCE_S]
        deleted = 0
        for name in gone:
            deleted += await self._blobs.delete_prefix(blob_prefix(name)) > 0
            del self._since[name]
        if deleted:
            log.info("deleted the files of %d generations without a record", deleted)
        if self._since:
            self._next = min(self._since.values()) + PATIENCE_S
        return deleted

    async def _ours(self, named: Collection[str], known: Collection[str]) -> bool:
        """Whether the blob store belongs to this database.

        An unmarked store is claimed if it is empty or holds this database's files.
        """
        mine = await self._records.database_id()
        mark = await self._blobs.get(MARK)
        if mark is None and (known or not named):
            await self._blobs.put(MARK, mine.encode())
            return True
        foreign = mark != mine.encode()
        if foreign and not self._foreign:
            log.warning("the blob store belongs to another database: files without a record are kept")
        self._foreign = foreign
        return not foreign
