"""API keys of a running service, made as the command line makes them: in its database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from app.service import ApiKey, Permission, auth
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlGenerationStore

T = TypeVar("T")
ALL = (Permission.GENERATE, Permission.RANK, Permission.READ)


def with_store(url: str, use: Callable[[SqlApiKeyStore], Awaitable[T]]) -> T:
    async def run() -> T:
        database = await SqlGenerationStore.open(url)
        try:
            return await use(SqlApiKeyStore(database.connections))
        finally:
            await database.close()

    return asyncio.run(run())


def in_folder(folder: Path, use: Callable[[SqlApiKeyStore], Awaitable[T]]) -> T:
    """`use` on the database in a data folder."""
    return with_store(f"sqlite:///{folder}/frontrunner.db", use)


def add_key(
    folder: Path, *rights: Permission, quota: int | None = None, name: str = "test"
) -> tuple[ApiKey, dict[str, str]]:
    """A new key, and the header that presents it."""
    key, told = auth.create_api_key(name, rights or ALL, quota, 3600)
    in_folder(folder, lambda store: store.add(key))
    return key, {"authorization": f"Bearer {told}"}
