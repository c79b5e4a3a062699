"""Files by key in a folder, in memory or in a bucket. Owns the rules for keys; what the bytes mean is the service's.

obstore does the work, and the URL alone decides: `file:///folder`, `memory://`, `s3://bucket/prefix`.
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
"""How long a bucket's server may take to accept a connection."""

REQUEST_TIMEOUT = timedelta(seconds=20)
"""How long one request to a bucket may take."""

MAX_RETRIES = 3
"""Times a request to a bucket is sent again, within `RETRY_TIMEOUT`."""

RETRY_TIMEOUT = timedelta(seconds=10)

ATTEMPT_BYTES = 2**18
"""What is written to see whether there is room again."""

_KEY = re.compile(r"(?!\.\.?(/|$))[A-Za-z0-9._-]+(/(?!\.\.?(/|$))[A-Za-z0-9._-]+)*")


class ObjectBlobStore:
    """`ObjectBlobStore` over obstore. Made by `open`; holds no file or connection that needs closing.

    Keys are segments of letters, digits, `.`, `_` and `-` joined by `/`, none of them `.` or `..`; any other key is
    a mistake of the caller (ValueError), so that nothing outside the store can be named.
    """

    def __init__(self, store: ObjectStore, root: Path | None = None) -> None:
        self.instruments = StoreInstruments()
        self._store = store
        self._root = root

    @classmethod
    def open(cls, url: str) -> Self:
        """The store behind `url`; a folder is made if needed, for its owner alone.

        Empty folders inside it are removed.

        A bucket's credentials, region and endpoint come from the usual AWS_... variables. Raises StoreUnavailable
        when the folder cannot be made, ValueError when it is no URL at all.
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
        await self.instruments.check("blob_put", self._attempt)

    async def _attempt(self) -> None:
        for size in (ATTEMPT_BYTES, 0):
            await self.put("attempt", bytes(size))

    async def folders(self, folder: str) -> list[str]:
        """See BlobStore."""
        _check_key(folder.removesuffix("/"))
        with self.instruments.measure("blob_list"), _translated_errors():
            listed = await obstore.list_with_delimiter_async(self._store, folder)
        return [path.removesuffix("/").rpartition("/")[2] for path in listed["common_prefixes"]]

    async def delete_prefix(self, prefix: str) -> int:
        """See BlobStore. A prefix that ends with `/` costs one listing of that folder, any other one of its parent."""
        _check_key(prefix.removesuffix("/"))
        found = 0
        with _translated_errors():
            while keys := await self._keys(prefix):
                found += len(keys)
                with suppress(FileNotFoundError):  # another process deleted it first: see what is left
                    await obstore.delete_async(self._store, keys)
            if self._root is not None and prefix.endswith("/"):
                await asyncio.to_thread(shutil.rmtree, self._root / prefix, ignore_errors=True)
        return found

    async def delete_unfinished(self, folder: str) -> None:
        """See BlobStore. Only a folder store has any: it writes beside the file, and lists no such name."""
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
        raise ValueError("not a key: segments of letters, digits, '.', '_' and '-', joined by '/'")
    return key


@contextmanager
def _translated_errors() -> Generator[None]:
    """Errors of obstore and the system as StoreUnavailable; their texts name paths and stay in the cause."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreUnavailable("the file store cannot be reached or has no room left") from error
