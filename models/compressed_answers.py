"""Which compressions of HTTP answers are unpacked. Without torch.

A chunk of gzip or deflate becomes at most a thousand times as long, so a limit of bytes holds while it is read. Other
compressions, and several at once, could fill the memory with one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping

ACCEPT_ENCODING = "gzip, deflate"
"""The header of requests whose answers are read."""


def is_unpackable(headers: Mapping[str, str]) -> bool:
    """Whether the body of an answer with these headers may be unpacked."""
    return headers.get("content-encoding", "").strip().lower() in ("", "identity", "gzip", "deflate")
