"""Files."""

from __future__ import annotations

from typing import Protocol


class BlobStore(Protocol):
    """Files by key (`generations/<id>/...`)."""

    async def put(self, key: str, data: bytes) -> None:
        """Write or overwrite atomically."""

    async def get(self, key: str) -> bytes | None:
        """The bytes, or None."""

    async def ping(self) -> None:
        """Return if no write failed recently, or if a test write succeeds."""

    async def folders(self, folder: str) -> list[str]:
        """Names of the subfolders of `folder/`; some stores include empty ones."""

    async def delete_prefix(self, prefix: str) -> int:
        """Delete and count keys that start with `prefix`, and delete unfinished files."""

    async def delete_unfinished(self, folder: str) -> None:
        """Delete unfinished files of killed writers in `folder`, which ends with `/`."""
