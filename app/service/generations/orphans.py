"""Files without a record: written while their generation was deleted, or by a process that was killed.

A re-ranking's files are written before its record, so a folder is deleted only after it had no record for a while.
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
"""How often all folders are listed."""

PATIENCE_S = 600.0
"""How long a folder may be without a record: far more than storing takes."""

MARK = "database"
"""Key of the file that names the database of these files. Those of another database are left alone."""


class Orphans:
    """Finds and deletes them. Times are of `ticks`, which never jumps; a new process waits anew."""

    def __init__(self, records: GenerationStore, blobs: BlobStore, ticks: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._blobs = blobs
        self._ticks = ticks
        self._next = -math.inf
        self._since: dict[str, float] = {}
        self._foreign = False

    async def sweep(self) -> int:
        """Look, if it is time to; how many folders were deleted. Raises StoreUnavailable."""
        now = self._ticks()
        if now < self._next:
            return 0
        named = [name for name in await self._blobs.folders(FILES) if name.startswith("gen_")]
        known = await self._records.existing_ids(named)  # read after the listing: a record is written before its files
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
            log.info("the files of %d forgotten generations were deleted", deleted)
        if self._since:
            self._next = min(self._since.values()) + PATIENCE_S
        return deleted

    async def _ours(self, named: Collection[str], known: Collection[str]) -> bool:
        """Whether the store is this database's. One without a mark is claimed if it is empty or holds files of ours."""
        mine = await self._records.database_id()
        mark = await self._blobs.get(MARK)
        if mark is None and (known or not named):
            await self._blobs.put(MARK, mine.encode())
            return True
        foreign = mark != mine.encode()
        if foreign and not self._foreign:
            log.warning("the image store holds files of another database: those without a generation are left alone")
        self._foreign = foreign
        return not foreign
