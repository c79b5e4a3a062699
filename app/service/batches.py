"""Batches: many generations of one request, run when no single request waits.

An entry is a generation that is stored at once and claimed later. So its checks, charge, logs, webhook, takeover and
result are those of any generation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from app.domain import (
    BATCH_PREFIX,
    Batch,
    BatchCounts,
    BatchEntry,
    EventKind,
    Generation,
    RefusedEntry,
    Status,
    Webhook,
)
from app.errors import KeyReused, NotFound
from app.service import auth
from app.service.auth import can_view, current_owner
from app.service.candidates.inputs import save_inputs
from app.service.candidates.keys import blob_prefix
from app.service.generations.recording.final_record import closing_line
from app.service.generations.service import GenerationService
from app.service.ids import new_id
from app.service.types import IdempotencyKey, PreparedGeneration
from app.service.webhooks.dispatcher import WebhookPolicy
from app.stores.protocols import (
    BatchStore,
    BlobStore,
    GenerationStore,
    IdempotencyMatch,
    KeyRecord,
    NewEvent,
    PageMark,
)

MAX_ENTRIES = 1000
"""Maximum entries of a batch."""

_DELETIONS = 8
"""Folders of files that are deleted at a time."""


class BatchService:
    """Submit, read, cancel and delete batches; other owners' raise NotFound."""

    def __init__(
        self,
        service: GenerationService,
        records: GenerationStore,
        batches: BatchStore,
        blobs: BlobStore,
        hooks: WebhookPolicy,
    ) -> None:
        self._service = service
        self._records = records
        self._batches = batches
        self._blobs = blobs
        self._hooks = hooks

    def check_webhook(self, webhook: Webhook | None) -> None:
        """Raises InvalidRequest for a webhook that can never be delivered."""
        self._hooks.check(webhook)

    async def find_earlier(self, once: IdempotencyKey | None) -> str | None:
        """The id of the batch that an earlier request with this key made.

        Raises KeyReused.
        """
        if once is None:
            return None
        match = await self._records.find_idempotent(current_owner(), once.key)
        return await self._matching(match, once.fingerprint) if match is not None else None

    async def submit(
        self,
        entries: Sequence[tuple[int, PreparedGeneration]],
        refused: Sequence[RefusedEntry],
        webhook: Webhook | None,
        once: IdempotencyKey | None = None,
    ) -> str:
        """Store a batch of prepared generations, each with its index; the batch's id.

        All candidates are charged. Raises QuotaExceeded, InvalidRequest and KeyReused.
        """
        batch = Batch(
            new_id(BATCH_PREFIX),
            current_owner(),
            self._records.clock(),
            len(entries) + len(refused),
            tuple(refused),
            webhook,
        )
        placed = [
            replace(entry.generation, batch=batch.id, batch_index=index, created=batch.created)
            for index, entry in entries
        ]
        charge = auth.quota_charge(sum(one.spec.n_candidates for one in placed), "#/requests")
        key = KeyRecord(batch.owner, once.key, once.fingerprint) if once is not None else None
        with_lines = [(one, [_queued_line(one)]) for one in placed]
        steered = [entry for _, entry in entries if entry.inputs is not None]
        stored = False
        try:
            await self._save_inputs(steered)
            created = await self._batches.create(batch, with_lines, key, charge)
            if isinstance(created, IdempotencyMatch):
                return await self._matching(created, once.fingerprint if once is not None else "")
            auth.record_usage(charge, created)
            stored = True
        finally:
            if not stored:
                await self._delete_files([entry.generation.id for entry in steered])
        self._service.wake_worker()
        return batch.id

    async def _save_inputs(self, steered: Sequence[PreparedGeneration]) -> None:
        """Store the images of entries before their records."""
        for entry in steered:
            assert entry.inputs is not None
            await save_inputs(self._blobs, entry.generation.spec, entry.inputs)

    async def _matching(self, match: IdempotencyMatch, fingerprint: str) -> str:
        found = await self._batches.of_generation(match.generation_id) if match.fingerprint == fingerprint else None
        if found is None:
            raise KeyReused("Idempotency-Key was used for a different request: send a new key with a new request")
        return found

    async def get(self, batch_id: str) -> tuple[Batch, BatchCounts]:
        """The batch, and the states of its entries. Raises NotFound."""
        found = await self._batches.get(batch_id)
        if found is None or not can_view(found[0].owner):
            raise NotFound("there is no such batch, or it was deleted: check the id")
        return found

    async def entries(self, batch_id: str) -> list[BatchEntry]:
        """The entries that are generations, by index."""
        return await self._batches.entries(batch_id)

    async def find(self, after: PageMark | None, limit: int) -> tuple[list[tuple[Batch, BatchCounts]], bool]:
        """The caller's own batches, newest first, and whether more follow."""
        found = await self._batches.find(current_owner(), after, limit + 1)
        return found[:limit], len(found) > limit

    async def cancel(self, batch_id: str) -> None:
        """Cancel the entries that have not ended; the others keep their results.

        Raises NotFound.
        """
        await self.get(batch_id)
        await self._batches.mark_cancelled(batch_id)
        while waiting := await self._batches.unclaimed(batch_id):
            now = self._records.clock()
            ended = [replace(one, status=Status.CANCELLED, finished=now) for one in waiting]
            await self._batches.settle(ended, [closing_line(ended[0])])
        for entry in await self._batches.entries(batch_id):
            if not entry.status.is_final:
                await self._service.cancel(entry.generation_id)

    async def delete(self, batch_id: str) -> None:
        """Cancel the batch, then delete it with its entries. Raises NotFound."""
        await self.cancel(batch_id)
        await self._erase(batch_id)

    async def purge_expired(self, retention_s: float) -> int:
        """Delete batches that ended earlier, with their entries; their number."""
        before, purged = await self._records.now() - retention_s, 0
        while expired := await self._batches.list_expired(before):
            for batch_id in expired:
                await self._erase(batch_id)
            purged += len(expired)
        return purged

    async def _erase(self, batch_id: str) -> None:
        """Delete files, records, and files again, as of a single generation."""
        names = [entry.generation_id for entry in await self._batches.entries(batch_id)]
        await self._delete_files(names)
        await self._batches.delete(batch_id)
        await self._delete_files(names)

    async def _delete_files(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _DELETIONS):
            some = names[start : start + _DELETIONS]
            await asyncio.gather(*(self._blobs.delete_prefix(blob_prefix(name)) for name in some))


def _queued_line(entry: Generation) -> NewEvent:
    return NewEvent(EventKind.QUEUED, {"n_candidates": entry.spec.n_candidates, "batch": entry.batch})
