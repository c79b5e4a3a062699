"""Images as arguments: bytes, paths and open files."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import IO, TypeAlias

Image: TypeAlias = bytes | str | os.PathLike[str] | IO[bytes]
"""The bytes of an image file, the path of one, or an open one."""


def read(image: Image) -> bytes:
    """The bytes of an image file. Raises OSError."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    return image.read()


def data_uri(image: Image) -> str:
    """An image file as a `data:` URI, for fields such as `image`. Raises OSError."""
    return f"data:image/*;base64,{base64.b64encode(read(image)).decode('ascii')}"
