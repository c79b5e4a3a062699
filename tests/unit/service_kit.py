"""A service on the fakes with real stores: a database file and a folder of images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.service import Draft, Limits, Service
from app.stores.blobs import BlobStore
from app.stores.generations import Database
from models.protocols import Models
from models.synthetic.fakes import FakeGenerator, FakeScorer


class House:
    """A service with everything it stands on."""

    def __init__(self, service: Service, records: Database, blobs: BlobStore, generator: FakeGenerator) -> None:
        self.service = service
        self.records = records
        self.blobs = blobs
        self.generator = generator

    async def made(self, **draft: Any) -> str:
        generation = await self.service.submit(Draft(**{"prompt": "a red apple", "seed": 7, "steps": 4, **draft}))
        return (await self.service.wait(generation.id)).id


@asynccontextmanager
async def house(tmp_path: Path, delay_s: float = 0.0, url: str | None = None, **service: Any) -> AsyncIterator[House]:
    generator = FakeGenerator(delay_s=delay_s)
    engine = LocalEngine(lambda: Models(generator, FakeScorer()), EngineConfig(), lambda _: None)
    records = await Database.open(url or f"sqlite:///{tmp_path}/records.db")
    blobs = BlobStore.open(f"file://{tmp_path}/blobs")
    made = Service(engine, records, blobs, Limits(), **service)
    engine.start()
    while not engine.stats().ready:
        await asyncio.sleep(0.005)
    try:
        yield House(made, records, blobs, generator)
    finally:
        await engine.close(5)
        await made.close()
        await records.close()
