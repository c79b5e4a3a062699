"""A service on the fakes with real stores: a database file and a folder of images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.service import BatchService, GenerationParams, GenerationService, Limits, WebhookPolicy
from app.stores.blobs import ObjectBlobStore
from app.stores.generations import SqlBatchStore, SqlGenerationStore
from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from tests.synthetic_models import InstrumentedGenerator


class House:
    """A service with everything it stands on."""

    def __init__(
        self,
        service: GenerationService,
        records: SqlGenerationStore,
        blobs: ObjectBlobStore,
        generator: InstrumentedGenerator,
        batches: BatchService,
    ) -> None:
        self.batches = batches
        self.service = service
        self.records = records
        self.blobs = blobs
        self.generator = generator

    async def made(self, **params: Any) -> str:
        generation = await self.service.submit(
            GenerationParams(**{"prompt": "a red apple", "seed": 7, "steps": 4, **params})
        )
        return (await self.service.wait(generation.id)).id


@asynccontextmanager
async def house(
    tmp_path: Path, delay_s: float = 0.0, url: str | None = None, revision: str = "1", **service: Any
) -> AsyncIterator[House]:
    generator = InstrumentedGenerator(delay_s=delay_s, revision=revision)
    engine = LocalEngine(lambda: Models(generator, FakeScorer()), EngineConfig(), lambda _: None)
    records = await SqlGenerationStore.open(url or f"sqlite:///{tmp_path}/records.db")
    blobs = ObjectBlobStore.open(f"file://{tmp_path}/blobs")
    store = SqlBatchStore(records)
    made = GenerationService(engine, records, blobs, Limits(), batches=store, **service)
    batches = BatchService(made, records, store, blobs, WebhookPolicy())
    engine.start()
    while not engine.stats().ready:
        await asyncio.sleep(0.005)
    try:
        yield House(made, records, blobs, generator, batches)
    finally:
        await engine.close(0)
        await made.close()
        await records.close()
