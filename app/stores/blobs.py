"""Blob store over obstore: files by key in a folder, in memory or in a bucket.

The URL selects the backend: `file:///folder`, `memory://` or `s3://bucket/prefix`. This module owns the key format; the
service owns what the bytes mean.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store, from_url

from app.errors import StoreUnavailable
from app.stores.instrumentation import StoreInstruments
from app.stores.privacy import private_folder

CONNECT_TIMEOUT = timedelta(seconds=3)
"""Timeout for connecting to a bucket's server."""

REQUEST_TIMEOUT = timedelta(seconds=20)
"""Timeout of one bucket request."""

MAX_RETRIES = 3
"""Retries of one bucket request, within `RETRY_TIMEOUT`."""

RETRY_TIMEOUT = timedelta(seconds=10)

PROBE_BYTES = 2**18
"""Bytes that the readiness probe writes to check for free space."""

_KEY = re.compile(r"(?!\.\.?(/|$))[A-Za-z0-9._-]+(/(?!\.\.?(/|$))[A-Za-z0-9._-]+)*")


class ObjectBlobStore:
    """`BlobStore` over obstore. Create it with `open`; it needs no closing.

    Keys are segments of letters, digits, `.`, `_` and `-`, joined by `/`; no segment is `.` or `..`. Any other key
    raises ValueError, so no key can name a file outside the store.
    """

    def __init__(self, store: ObjectStore, root: Path | None = None) -> None:
        self.instruments = StoreInstruments()
        self._store = store
        self._root = root

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the store behind `url`.

        A missing folder is created with access for its owner only. Empty subfolders are removed.

        A bucket's credentials, region and endpoint come from the standard AWS_... variables. Raises StoreUnavailable
        when the folder cannot be created, ValueError when `url` is not a URL.
        """
        with _translated_errors():
            if url.startswith("file:"):
                root = Path(unquote(urlsplit(url).path))
                private_folder(root, "generations", "database")
                return cls(LocalStore.from_url(url, automatic_cleanup=True), root)
            if url.startswith("s3:"):
                return cls(_open_bucket(url))
            return cls(from_url(url))

    async def put(self, key: str, data: bytes) -> None:
        """See BlobStore."""
        with self.instruments.measure("blob_put"), _translated_errors():
            await obstore.put_async(self._store, _check_key(key), data)

    async def get(self, key: str) -> bytes | None:
        """See BlobStore."""
        with self.instruments.measure("blob_get"), _translated_errors(), suppress(FileNotFoundError):
            found = await obstore.get_async(self._store, _check_key(key))
            return bytes(await found.bytes_async())
        return None

    async def ping(self) -> None:
        """See BlobStore."""
        await self.instruments.check("blob_put", self._probe_write)

    async def _probe_write(self) -> None:
        for size in (PROBE_BYTES, 0):
            await self.put("attempt", bytes(size))

    async def folders(self, folder: str) -> list[str]:
        """See BlobStore."""
        _check_key(folder.removesuffix("/"))
        with self.instruments.measure("blob_list"), _translated_errors():
            listed = await obstore.list_with_delimiter_async(self._store, folder)
        return [path.removesuffix("/").rpartition("/")[2] for path in listed["common_prefixes"]]

    async def delete_prefix(self, prefix: str) -> int:
        """See BlobStore.

        A prefix that ends with `/` lists that folder; any other one lists the parent folder.
        """
        _check_key(prefix.removesuffix("/"))
        found = 0
        with _translated_errors():
            while keys := await self._keys(prefix):
                found += len(keys)
                with suppress(FileNotFoundError):  # another process deleted it first: list again
                    await obstore.delete_async(self._store, keys)
            if self._root is not None and prefix.endswith("/"):
                await asyncio.to_thread(shutil.rmtree, self._root / prefix, ignore_errors=True)
        return found

    async def delete_unfinished(self, folder: str) -> None:
        """See BlobStore.

        Only folder stores have unfinished files: temporary names beside the target, hidden from listings.
        """
        _check_key(folder.removesuffix("/"))
        if self._root is not None:
            with _translated_errors():
                await asyncio.to_thread(_remove_unfinished, self._root / folder)

    async def _keys(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        return [
            item["path"]
            async for chunk in obstore.list(self._store, folder)
            for item in chunk
            if item["path"].startswith(prefix)
        ]


def _open_bucket(url: str) -> S3Store:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return S3Store.from_url(
        url,
        client_options={
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": REQUEST_TIMEOUT,
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT},
    )


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob("*#*"):
        path.unlink(missing_ok=True)


def _check_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError("invalid key: use segments of letters, digits, '.', '_' and '-', joined by '/'")
    return key


@contextmanager
def _translated_errors() -> Generator[None]:
    """Translate errors of obstore and the system into StoreUnavailable.

    Their messages contain paths and stay in the cause.
    """
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreUnavailable(
            "the file store is unreachable or full; check storage and free space, then retry"
        ) from error
