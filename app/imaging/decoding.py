"""Decodes uploads: PNG, JPEG, WebP, GIF and BMP to RGB pixels; owns their limits.

The content determines the format, not the name or declared type. TIFF, PSD, HEIC and SVG are not supported: their
decoders are large and rarely needed here. Pixels are converted to sRGB by the embedded colour profile.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from app.errors import BadImage, FrontrunnerError, InvalidRequest, TooComplex, TooLarge, UnsupportedMedia
from app.imaging.color_profiles import srgb_conversion
from app.imaging.structure import MAX_EXIF_BYTES, check_structure

ACCEPTED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

MAX_ASPECT_RATIO = 256
"""Maximum ratio of the sides; resizing a thinner strip is expensive."""

MAX_ESCAPES = 2**20
"""Maximum percent-encoded bytes of a data URI; each becomes a separate string."""

MAX_TEXT_CHARS = 12_000
"""Maximum characters of one text in an upload's metadata; longer ones are cut."""

MAX_TEXTS = 3
"""Maximum texts that are read from a file's metadata: the known ones first."""

_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError, struct.error, zlib.error),
    UserWarning,  # Pillow's about broken metadata, where the interpreter raises warnings
)
_STRIP_PIXELS = 2**20
_WHITE = b" \t\n\r\v\f"
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{16,}={0,2}\s*", re.ASCII)
_JPEG, _EXIF = b"\xff\xd8", b"Exif\0\0"
_REJECTED_SIGNATURES = {
    b"%PDF": "PDF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "Photoshop",
    b"\0\0\1\0": "icon",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"\0\0\0\x0cjP": "JPEG 2000",
}
_EXIF_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# This module checks the size against the limit of the settings.
Image.MAX_IMAGE_PIXELS = None


def decode_upload(data: bytes, max_pixels: int, declared: str | None = None) -> NDArray[np.uint8]:
    """Decode an image file to pixels (H, W, 3), upright.

    They are sRGB. Transparency becomes white; of several frames the first one is used. `declared`, the caller's media
    type, only selects the error for data that is no image. Structure and size are checked before decoding.
    Raises BadImage, InvalidRequest, TooComplex, TooLarge, UnsupportedMedia.

    This function decodes in place without a deadline; use `DecoderPool` for bytes of a caller.
    """
    with decoded(data, max_pixels, declared) as image:
        return np.concatenate(list(strips(image)))


def measure(data: bytes, max_pixels: int, declared: str | None = None) -> tuple[int, int]:
    """Return width and height from the header, before rotation, without decoding.

    Raises as `decode_upload`.
    """
    with _opened(data, max_pixels, declared) as image:
        return image.size


def texts(data: bytes, max_pixels: int, declared: str | None = None, *, most: int = MAX_TEXT_CHARS) -> dict[str, str]:
    """Return texts of the metadata by name, each cut to `most` characters.

    They are text chunks of a PNG, and the Exif user comment, which has the name `UserComment`.
    Raises as `decode_upload`.
    """
    with _opened(data, max_pixels, declared) as image:
        found = {name: value for name, value in image.info.items() if isinstance(name, str) and isinstance(value, str)}
        found |= _user_comment(image)
        first = sorted(found, key=lambda name: name not in {"parameters", "frontrunner", "UserComment"})
        return {name[:64]: found[name][:most] for name in first[:MAX_TEXTS]}


def _user_comment(image: Image.Image) -> dict[str, str]:
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        return {}
    try:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except _DECODE_ERRORS:  # broken metadata holds no text
        return {}
    if not isinstance(comment, bytes):
        return {}
    encoding = "utf-16-be" if comment.startswith(b"UNICODE\0") else "utf-8"
    return {"UserComment": comment[8:].decode(encoding, "replace")}


@contextmanager
def decoded(data: bytes, max_pixels: int, declared: str | None = None) -> Iterator[Image.Image]:
    """Yield the loaded, upright image in any mode. Raises as `decode_upload`."""
    with _opened(data, max_pixels, declared) as image:
        image.load()
        yield _apply_orientation(image)


def strips(image: Image.Image, *, alpha: bool = False) -> Iterator[NDArray[np.uint8]]:
    """Yield the sRGB pixels of a loaded image in strips (h, W, 3), top to bottom.

    With `alpha` they are (h, W, 4). A copy of the whole image may be large.
    """
    to_srgb = srgb_conversion(image)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if strip.mode.startswith("I"):
            strip = _from_16_bit(strip)
        if to_srgb is not None:
            strip = to_srgb(strip)
        yield _to_rgba(strip) if alpha else _to_rgb(strip)


@contextmanager
def _opened(data: bytes, max_pixels: int, declared: str | None) -> Iterator[Image.Image]:
    if not data:
        raise BadImage("the image file is empty: send a PNG, JPEG, WebP, GIF or BMP file")
    check_structure(data, max_pixels)
    try:
        with _open(data) as image:
            _check_size(image.width, image.height, max_pixels)
            yield image
    except UnidentifiedImageError:
        raise _rejection(data, declared) from None
    except _DECODE_ERRORS as error:
        raise BadImage("the image file is damaged or incomplete: save it again with an editor") from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS)
    except UnidentifiedImageError:
        if data.startswith(_JPEG) and _EXIF in data:  # Pillow fails on some broken metadata
            return Image.open(io.BytesIO(data.replace(_EXIF, bytes(len(_EXIF)))), formats=ACCEPTED_FORMATS)
        raise


def parse_image_text(text: str) -> bytes:
    """Return the bytes of an image in a text.

    The text is `data:image/...;base64,...`, possibly percent-encoded, or bare base64.

    Raises BadImage, TooComplex, UnsupportedMedia.
    """
    head, comma, body = text.strip().partition(",")
    scheme, _, kind = head.partition(":")
    if not comma and _BASE64.fullmatch(text):
        return _from_base64(text)
    if scheme.lower() != "data" or not comma or not text.isascii():
        raise BadImage("image must be a data URI, data:image/png;base64,..., or bare base64; URLs are not fetched")
    media, *marks = (part.strip().lower() for part in kind.split(";"))
    if media and not media.startswith("image/"):
        raise UnsupportedMedia("the data URI must have an image type, such as data:image/png;base64,...")
    if body.count("%") > MAX_ESCAPES:
        raise TooComplex(f"the data URI has more than {MAX_ESCAPES} percent-encoded bytes: send it as base64")
    raw = unquote_to_bytes(body)
    if "base64" not in marks:
        return raw
    return _from_base64(raw)


def _from_base64(text: str | bytes) -> bytes:
    data = text.encode("ascii") if isinstance(text, str) else text
    try:
        return base64.b64decode(data.translate(None, _WHITE), validate=True)
    except binascii.Error as error:
        raise BadImage("the image is not valid base64: encode the file again") from error


def _check_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise TooLarge(f"the image is {width}x{height}, but at most {limit} pixels are allowed: send a smaller one")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InvalidRequest(
            f"the image is {width}x{height}; a side may be at most {MAX_ASPECT_RATIO} times the other: crop it"
        )


def _rejection(data: bytes, declared: str | None) -> FrontrunnerError:
    head = data[:64].lstrip()
    name = next(
        (name for magic, name in _REJECTED_SIGNATURES.items() if data.startswith(magic) or head.startswith(magic)), None
    )
    if data[4:8] == b"ftyp":
        name = "AVIF" if data[8:12] in {b"avif", b"avis"} else "HEIC or video"
    if name is not None:
        return UnsupportedMedia(f"the file type is {name}; send PNG, JPEG, WebP, GIF or BMP")
    if declared is not None and not declared.lower().startswith(("image/", "application/octet-stream")):
        return UnsupportedMedia("the file is not a supported image; send PNG, JPEG, WebP, GIF or BMP")
    return BadImage("the file is not an image, or its header is damaged; send PNG, JPEG, WebP, GIF or BMP")


def _apply_orientation(image: Image.Image) -> Image.Image:
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        return image
    try:
        turn = _EXIF_ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODE_ERRORS:  # broken metadata does not affect the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return np.array(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return np.array(image.convert("RGB"))


def _to_rgba(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels with their transparency; an image without any is opaque."""
    if image.has_transparency_data:
        return np.array(image.convert("RGBA"))
    rgb = _to_rgb(image)
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=2)


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scale grey from 0..65535 to 0..255; Pillow alone would clip it."""
    grey = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
