"""Converts uploads with an embedded ICC profile to sRGB.

A profile is ignored if it is broken, too large, of an unusual kind or of another colour space than the pixels. They
are then taken as sRGB, as in browsers.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

MAX_PROFILE_BYTES = 4 * 2**20
"""Maximum bytes of a profile that is used.

Those of printing presses have 0.5 to 2 MiB.
"""

_MODES = {
    b"RGB ": {"RGB": "RGB", "RGBA": "RGB", "P": "RGB"},
    b"GRAY": {"L": "L", "LA": "L", "1": "L", "I": "L", "I;16": "L", "I;16B": "L"},
    b"CMYK": {"CMYK": "CMYK"},
}
"""By colour space: modes of images, and the mode in which they are converted."""

_CLASSES = frozenset({b"mntr", b"scnr", b"prtr", b"spac"})
"""Kinds of profiles that describe pixels; device links and named colours do not."""

_UNBOUNDED = b"mpet"
"""Type of a tag that may apply any number of elements to each colour."""

_INVISIBLE = 2
"""Levels of 255 by which an sRGB profile may differ from sRGB through rounding."""

Conversion = Callable[[Image.Image], Image.Image]


def srgb_conversion(image: Image.Image) -> Conversion | None:
    """Return the conversion of pixels of `image` to sRGB by its profile.

    It takes any crop of `image`, 16-bit grey scaled to 8 bits, and returns RGB, or RGBA with its transparency. None
    means that the pixels stay as they are: there is no usable profile, or it is that of sRGB. `MAX_PROFILE_BYTES`
    bounds the time and memory of building the conversion.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or len(profile) > MAX_PROFILE_BYTES or _UNBOUNDED in profile:
        return None
    mode = _MODES.get(profile[16:20], {}).get(image.mode)
    if mode is None or profile[12:16] not in _CLASSES:
        return None
    apply = _transform(profile, mode)
    if apply is None or (mode != "CMYK" and _is_srgb(apply, mode)):
        return None

    def convert(crop: Image.Image) -> Image.Image:
        converted = apply(crop.convert(mode))
        if crop.has_transparency_data:
            converted.putalpha(crop.convert("RGBA").getchannel("A"))
        return converted

    return convert


def _transform(profile: bytes, mode: str) -> Conversion | None:
    """Return the transform of `mode` to sRGB, with perceptual intent.

    None for a broken profile.
    """
    from PIL import ImageCms

    try:
        return ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB").apply
    except ImageCms.PyCMSError:
        return None


def _is_srgb(apply: Conversion, mode: str) -> bool:
    """Whether the transform leaves a grid of colours as they are."""
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    if mode == "L":
        grid = Image.fromarray(levels[None])
    else:
        grid = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3))
    before = np.asarray(grid.convert("RGB")).astype(np.int16)
    return bool(np.abs(np.asarray(apply(grid)).astype(np.int16) - before).max() <= _INVISIBLE)
