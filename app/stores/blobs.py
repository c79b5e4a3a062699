"""Files by key in a folder, in memory or in a bucket. Owns the rules for keys; what the bytes mean is the service's.

obstore does the work, and the URL alone decides: `file:///folder`, `memory://`, `s3://bucket/prefix`.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from app.errors import StoreUnavailable

_KEY = re.compile(r"(?!\.\.?(/|$))[A-Za-z0-9._-]+(/(?!\.\.?(/|$))[A-Za-z0-9._-]+)*")


class BlobStore:
    """`Blobs` over obstore. Made by `open`; holds no file or connection that needs closing.

    Keys are segments of letters, digits, `.`, `_` and `-` joined by `/`, none of them `.` or `..`; any other key is
    a mistake of the caller (ValueError), so that nothing outside the store can be named.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def open(cls, url: str) -> Self:
        """The store behind `url`; a folder is made if needed, and empty folders inside it are removed.

        Raises StoreUnavailable when the folder cannot be made, ValueError when it is no URL at all.
        """
        with _typed():
            if url.startswith("file:"):
                return cls(LocalStore.from_url(url, mkdir=True, automatic_cleanup=True))
            return cls(from_url(url))

    async def put(self, key: str, data: bytes) -> None:
        """See Blobs."""
        with _typed():
            await obstore.put_async(self._store, _checked(key), data)

    async def get(self, key: str) -> bytes | None:
        """See Blobs."""
        with _typed(), suppress(FileNotFoundError):
            found = await obstore.get_async(self._store, _checked(key))
            return bytes(await found.bytes_async())
        return None

    async def delete_prefix(self, prefix: str) -> None:
        """See Blobs. A prefix that ends with `/` costs one listing of that folder, any other one of its parent."""
        _checked(prefix.removesuffix("/"))
        with _typed():
            while keys := await self._keys(prefix):
                with suppress(FileNotFoundError):  # another process deleted it first: see what is left
                    await obstore.delete_async(self._store, keys)

    async def _keys(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        return [
            item["path"]
            async for chunk in obstore.list(self._store, folder)
            for item in chunk
            if item["path"].startswith(prefix)
        ]


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError("not a key: segments of letters, digits, '.', '_' and '-', joined by '/'")
    return key


@contextmanager
def _typed() -> Generator[None]:
    """Errors of obstore and the system as StoreUnavailable; their texts name paths and stay in the cause."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreUnavailable("the file store cannot be reached or has no room left") from error
