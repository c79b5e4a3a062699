"""Limits on the structure of uploads, checked before decoding.

A valid file of a few kilobytes may cost hours of work: a thousand scans, a million empty segments. This module walks
the outer structure of a file once and rejects such excess. The decoder detects damage.
"""

from __future__ import annotations

import re

from app.errors import TooComplex, TooLarge

FREE_PIECES = 4096
BYTES_PER_PIECE = 1024
"""A file may have `FREE_PIECES` pieces plus one per `BYTES_PER_PIECE` bytes."""

MAX_SCANS = 50
"""Maximum scans of a JPEG; each passes over every pixel, and 10 are common."""

MAX_EXIF_BYTES = 256 * 1024
"""Maximum Exif bytes; the standard allows 64 KiB.

Reading an index of many entries costs entries times bytes.
"""

MAX_RLE = 4 * 2**20
"""Maximum bytes and pixels of a run-length encoded BMP.

Pillow decodes these in Python.
"""

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})
"""JPEG markers without a length: TEM, RST0 to RST7, SOI, EOI."""


def check_structure(data: bytes, max_pixels: int) -> None:
    """Reject a file with excessive structure; an unknown format passes.

    Raises TooComplex, TooLarge.
    """
    if data.startswith(b"\xff\xd8"):
        _jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _png(data)
    elif data.startswith(b"GIF8"):
        _gif(data)
    elif data.startswith(b"BM"):
        _bmp(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        _webp(data, max_pixels)


class _Pieces:
    """Counts the pieces of a file. Raises TooComplex beyond the limit for its length."""

    def __init__(self, data: bytes, name: str) -> None:
        self._name = name
        self._left = self._limit = FREE_PIECES + len(data) // BYTES_PER_PIECE

    def count(self, pieces: int = 1) -> None:
        self._left -= pieces
        if self._left < 0:
            raise TooComplex(f"the image file has more than {self._limit} {self._name}: save it again with an editor")


def _jpeg(data: bytes) -> None:
    pieces, at, scans, exif = _Pieces(data, "segments"), 2, 0, 0
    while found := _MARKER.search(data, at):
        start, marker = found.end(), data[found.start() + 1]
        # Before the first scan, Pillow skips stray bytes one by one; after it they belong to the scan.
        pieces.count(1 if scans else 1 + found.start() - at)
        if marker == _EOI and scans:
            return
        at = start if marker in _BARE else start + max(2, int.from_bytes(data[start : start + 2], "big"))
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise TooComplex(f"the JPEG has more than {MAX_SCANS} scans: save it again with an editor")
        if marker == _APP1 and data.startswith(b"Exif", start + 2):
            exif += at - start
        if exif > MAX_EXIF_BYTES:
            raise TooComplex(f"the JPEG has more than {MAX_EXIF_BYTES // 1024} KiB of Exif: save it without Exif")


def _png(data: bytes) -> None:
    pieces, at = _Pieces(data, "chunks"), 8
    while at + 8 <= len(data):
        pieces.count()
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _webp(data: bytes, max_pixels: int) -> None:
    """Check the canvas: the decoder allocates all of it when it opens a file."""
    if data[12:16] == b"VP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[place : place + 3], "little") for place in (24, 27))
        if width * height > max_pixels:
            raise TooLarge(
                f"the image is {width}x{height}, but at most {max_pixels} pixels are allowed: send a smaller one"
            )
    pieces, at = _Pieces(data, "chunks"), 12
    while at + 8 <= len(data):
        pieces.count()
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def _gif(data: bytes) -> None:
    """Check up to the first frame; no other one is decoded."""
    pieces, at = _Pieces(data, "blocks"), 13
    if len(data) > 10 and data[10] & 0x80:
        at += 3 * 2 ** (1 + (data[10] & 7))
    while at < len(data) and data[at] not in b",;":
        pieces.count()
        if data[at] != ord("!"):
            at += 1
            continue
        at += 2
        while at < len(data) and data[at]:
            pieces.count()
            at += 1 + data[at]
        at += 1


def _bmp(data: bytes) -> None:
    if int.from_bytes(data[14:18], "little") < 40 or int.from_bytes(data[30:34], "little") not in {1, 2}:
        return
    width, height = (int.from_bytes(data[place : place + 4], "little", signed=True) for place in (18, 22))
    if max(len(data), abs(width * height)) > MAX_RLE:
        raise TooComplex(
            f"a run-length encoded BMP may have at most {MAX_RLE} bytes and pixels: save it without compression"
        )
