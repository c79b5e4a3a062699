"""Uploads that ask for more work, memory or parts than they are worth, made by hand: Pillow would not write them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

from app.errors import BadImage, FrontrunnerError, InvalidRequest, TooComplex, TooLarge

PNG = b"\x89PNG\r\n\x1a\n"


def saved(image: Image.Image, form: str, **given: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **given)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def png(*chunks: bytes, width: int = 8, height: int = 8, pixels: bytes | None = None) -> bytes:
    """An RGB PNG with more chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = pixels if pixels is not None else (b"\0" + b"\x80" * 3 * width) * height
    return PNG + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


def jpeg(between: bytes = b"", side: int = 8) -> bytes:
    """A JPEG with something between its start and its first segment."""
    whole = saved(Image.new("L", (side, side), 128), "JPEG")
    return whole[:2] + between + whole[2:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def scans(side: int, times: int) -> bytes:
    """A progressive JPEG whose last scan, of some tens of bytes, comes so many times."""
    whole = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True, quality=90)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * times + whole[-2:]


def exif(entries: int, size: int) -> bytes:
    """A TIFF index of so many entries that all name the same `size` bytes."""
    entry = struct.pack(">HHII", 0x9286, 7, size, 8)
    return b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", entries) + entry * entries + bytes(size)


def gif(extensions: bytes = b"", canvas: int = 8, frame: int = 8, frames: int = 1) -> bytes:
    one = saved(Image.new("P", (8, 8)), "GIF")
    image = b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + one[one.rindex(b",") + 10 : -1]
    return b"GIF89a" + struct.pack("<HHBBB", canvas, canvas, 0x80, 0, 0) + bytes(6) + extensions + image * frames + b";"


def webp(*chunks: bytes, side: int = 8) -> bytes:
    frame = saved(Image.new("RGB", (8, 8), "red"), "WEBP")[12:]
    canvas = struct.pack("<I", side - 1)[:3]
    body = b"WEBP" + riff(b"VP8X", b"\0\0\0\0" + canvas * 2) + b"".join(chunks) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated_webp(frames: int) -> bytes:
    frame = saved(Image.new("RGB", (8, 8), "red"), "WEBP")[12:]
    one = riff(b"ANMF", bytes(6) + b"\x07\0\0\x07\0\0" + b"\x64\0\0" + b"\0" + frame)
    head = riff(b"VP8X", b"\x02\0\0\0\x07\0\0\x07\0\0") + riff(b"ANIM", bytes(6))
    body = b"WEBP" + head + one * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(data: bytes, width: int, height: int, *, bits: int = 8, compression: int = 1) -> bytes:
    palette = bytes(4 * 2**bits)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


def _packed_text(kind: bytes, prefix: bytes) -> bytes:
    return chunk(kind, prefix + zlib.compress(bytes(50_000_000), 9))


Found = type[FrontrunnerError] | None

BOMBS: dict[str, tuple[Callable[[], bytes | str], Found]] = {
    "jpeg scans": (lambda: scans(2000, 1200), TooComplex),
    "jpeg scans of the largest size": (lambda: scans(6324, 1200), TooComplex),
    "jpeg segments": (lambda: jpeg(segment(0xFE, b"") * 2_000_000), TooComplex),
    "jpeg fill bytes": (lambda: jpeg(b"\xff" * 8_000_000), TooComplex),
    "jpeg stuffed bytes": (lambda: jpeg(b"\xff\0" * 4_000_000), TooComplex),
    "jpeg exif segments": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 100), TooComplex),
    "jpeg exif entries": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + exif(4000, 16_000))), None),
    "jpeg profile parts": (lambda: jpeg(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000)) * 400), None),
    "jpeg frame of another size": (lambda: _grown_jpeg(), TooLarge),
    "png dimensions": (lambda: png(width=2**31 - 1, height=2**31 - 1, pixels=b"\0"), TooLarge),
    "png empty data chunks": (lambda: png(chunk(b"IDAT") * 1_000_000), TooComplex),
    "png private chunks": (lambda: png(chunk(b"prVt") * 1_000_000), TooComplex),
    "png packed text": (lambda: png(_packed_text(b"zTXt", b"a\0\0") * 100), BadImage),
    "png packed international text": (lambda: png(_packed_text(b"iTXt", b"a\0\1\0\0\0") * 100), BadImage),
    "png packed profile": (lambda: png(_packed_text(b"iCCP", b"a\0\0")), BadImage),
    "png exif": (lambda: png(chunk(b"eXIf", exif(65_000, 16_000_000))), None),
    "png frames": (
        lambda: png(chunk(b"acTL", b"\0\1\0\0" + bytes(4)), chunk(b"fcTL", bytes(26)) * 10**6),
        TooComplex,
    ),
    "png data beyond its pixels": (lambda: png(pixels=bytes(200_000_000)), None),
    "gif comment blocks": (lambda: gif(b"!\xfe" + b"\1a" * 4_000_000 + b"\0"), TooComplex),
    "gif stray bytes": (lambda: gif(bytes(8_000_000)), TooComplex),
    "gif frames": (lambda: gif(frames=500_000), None),
    "gif frame beyond its canvas": (lambda: gif(canvas=1, frame=65_535), TooLarge),
    "webp canvas": (lambda: webp(side=16_384), TooLarge),
    "webp pixels": (lambda: saved(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, method=0), TooLarge),
    "webp chunks": (lambda: webp(riff(b"prVt", b"") * 1_000_000), TooComplex),
    "webp frames": (lambda: animated_webp(200_000), TooComplex),
    "bmp dimensions": (lambda: bmp(b"", 2**31 - 1, 2**31 - 1, compression=0), TooLarge),
    "bmp runs of nothing": (lambda: bmp(b"\xff\0" * 8_000_000, 1000, 1000), TooComplex),
    "bmp ends of lines": (lambda: bmp(b"\1\1\0\0" * 6_324, 6_324, 6_324), TooComplex),
    "bmp half bytes": (lambda: bmp(b"\xff\0" * 100_000, 6_324, 6_324, bits=4, compression=2), TooComplex),
    "strip": (lambda: saved(Image.new("L", (40_000, 8)), "PNG"), InvalidRequest),
    "uri of percent signs": (lambda: "data:image/png," + "%41" * 8_000_000, TooComplex),
    "uri of white space": (lambda: "data:image/png;base64," + "a " * 8_000_000, BadImage),
}
"""By name: how to make it, and the error that refuses it; None where it is read, at a small cost."""


def _grown_jpeg() -> bytes:
    """Two frame headers: the first one small, the second one huge."""
    whole = bytearray(jpeg())
    place = whole.index(b"\xff\xc0")
    size = struct.unpack(">H", whole[place + 2 : place + 4])[0]
    header = bytes(whole[place : place + 2 + size])
    grown = header[:5] + b"\xff\xff\xff\xff" + header[9:]
    return bytes(whole[: place + 2 + size]) + grown + bytes(whole[place + 2 + size :])
