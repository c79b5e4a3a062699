"""Uploads with an ICC profile become sRGB; those without one, or of sRGB, stay bit by bit as they are."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from app.imaging import DecoderPool, Upload, decode_upload, encode
from app.imaging.color_profiles import MAX_PROFILE_BYTES
from app.imaging.decoding import decoded, strips
from tests import profiles

Pixels = NDArray[np.uint8]

LIMIT = 2_000_000
P3 = profiles.matrix_profile(profiles.DISPLAY_P3)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGB_TO_XYZ = {
    "P3": [[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0.0, 0.04511, 1.04394]],
    "sRGB": [[0.41239, 0.35758, 0.18048], [0.21264, 0.71517, 0.07219], [0.01933, 0.11919, 0.95053]],
}
"""Matrices to XYZ under D65, from the primaries of the standards."""


def saved(image: Image.Image, kind: str, profile: bytes, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=profile, **options)
    return buffer.getvalue()


def picture(height: int = 24, width: int = 32) -> Pixels:
    pixels = np.full((height, width, 3), 90, np.uint8)
    pixels[..., 0] = np.linspace(60, 200, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(80, 160, height).astype(np.uint8)[:, None]
    return pixels


def linear(pixels: Pixels) -> NDArray[np.float64]:
    light = pixels / 255
    return np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)


def curved(light: NDArray[np.float64]) -> NDArray[np.float64]:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def p3_in_srgb(pixels: Pixels) -> NDArray[np.float64]:
    there, back = np.array(RGB_TO_XYZ["P3"]), np.linalg.inv(np.array(RGB_TO_XYZ["sRGB"]))
    return curved(linear(pixels) @ (back @ there).T)


def decoded_in_child(data: bytes) -> Pixels:
    async def decode() -> Pixels:
        pool = DecoderPool(1, timeout_s=30)
        try:
            return await pool.decode(Upload(data), LIMIT)
        finally:
            await pool.close()

    return asyncio.run(decode())


def difference(pixels: Pixels, expected: NDArray[Any]) -> float:
    return float(np.abs(pixels.astype(float) - expected).max())


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_display_p3_becomes_srgb(kind: str, options: dict[str, Any]) -> None:
    pixels = picture()
    data = saved(Image.fromarray(pixels), kind, P3, **options)
    assert difference(decode_upload(data, LIMIT), p3_in_srgb(pixels)) <= 1.5
    assert difference(pixels, p3_in_srgb(pixels)) > 20


def test_a_jpeg_of_display_p3_becomes_srgb_in_its_child() -> None:
    data = saved(Image.fromarray(picture()), "JPEG", P3, quality=100, subsampling=0)
    assert np.abs(decoded_in_child(data).astype(float) - p3_in_srgb(picture())).mean() < 2


def test_colours_outside_srgb_are_its_nearest() -> None:
    data = saved(Image.new("RGB", (2, 2), (0, 255, 0)), "PNG", P3)
    assert decode_upload(data, LIMIT)[0, 0].tolist() == [0, 255, 0]


def test_strips_of_a_tall_image_use_one_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    build = ImageCms.buildTransform

    def counted(*args: Any, **options: Any) -> Any:
        built.append(args[2])
        return build(*args, **options)

    monkeypatch.setattr(ImageCms, "buildTransform", counted)
    pixels = np.tile(picture(8, 8), (150, 150, 1))
    with decoded(saved(Image.fromarray(pixels), "PNG", P3), LIMIT) as image:
        parts = list(strips(image))
    assert len(parts) > 1
    assert built == ["RGB"]
    assert difference(np.concatenate(parts), p3_in_srgb(pixels)) <= 1.5


@pytest.mark.parametrize(
    "curve", [pytest.param(profiles.SRGB_CURVE, id="as published"), pytest.param((2.2,), id="simple gamma")]
)
def test_a_profile_of_srgb_leaves_pixels_alone_and_another_gamma_does_not(curve: tuple[float, ...]) -> None:
    colorants = {
        "rXYZ": (0.43607, 0.22249, 0.01392),
        "gXYZ": (0.38515, 0.71687, 0.09708),
        "bXYZ": (0.14307, 0.06061, 0.7141),
    }
    pixels = picture() // 4
    data = saved(Image.fromarray(pixels), "PNG", profiles.matrix_profile(colorants, curve))
    if curve == profiles.SRGB_CURVE:
        assert np.array_equal(decode_upload(data, LIMIT), pixels)
    else:
        assert difference(decode_upload(data, LIMIT), curved((pixels / 255) ** 2.2)) <= 1.5


def test_the_common_profile_of_srgb_leaves_every_level_alone() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    assert np.array_equal(decode_upload(saved(Image.fromarray(pixels), "PNG", SRGB), LIMIT), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_follows_its_profile_at_every_depth(mode: str) -> None:
    levels = np.array([[0, 255]] if mode == "1" else [[0, 64, 128, 255]], np.uint8)
    image = Image.fromarray(levels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(levels).convert(mode)
    assert image.mode == mode
    pixels = decode_upload(saved(image, "PNG", profiles.grey_profile(1.0)), LIMIT)
    assert difference(pixels[..., 0], curved(levels / 255)) <= 1.5
    assert (pixels == pixels[..., :1]).all()


def test_inks_follow_the_profile_of_their_press() -> None:
    lab = {(0, 0, 0, 0): (100.0, 0.0, 0.0), (0, 1, 0, 0): (50.0, 60.0, 0.0)}
    data = saved(Image.new("CMYK", (8, 8), (0, 255, 0, 0)), "JPEG", profiles.press_profile(lab), quality=100)
    white = saved(Image.new("CMYK", (8, 8)), "JPEG", profiles.press_profile(lab), quality=100)
    assert difference(decode_upload(data, LIMIT)[0, 0], np.array([206, 63, 122])) <= 12  # CIELAB 50, 60, 0
    assert difference(decode_upload(white, LIMIT)[0, 0], np.array([255, 255, 255])) <= 2
    assert decode_upload(saved(Image.new("CMYK", (8, 8), (0, 255, 0, 0)), "JPEG", b""), LIMIT)[0, 0].tolist() == [
        *(255, 0, 255),
    ]


@pytest.mark.parametrize("form", ["RGBA", "P", "RGB"])
def test_transparency_survives_the_conversion(form: str) -> None:
    """As an alpha channel, an index of a palette, and a transparent colour."""
    seen, hidden = (200, 100, 50), (10, 20, 30)
    image = Image.new("RGBA", (2, 1), (*seen, 255))
    image.putpixel((1, 0), (*hidden, 0))
    options: dict[str, Any] = {}
    if form == "RGB":
        image, options = image.convert("RGB"), {"transparency": hidden}
    if form == "P":
        image, options = Image.new("P", (2, 1)), {"transparency": 1}
        image.putpalette([*seen, *hidden])
        image.putdata([0, 1])
    data = saved(image, "PNG", P3, **options)
    with decoded(data, LIMIT) as loaded:
        assert loaded.mode == form
        pixels = np.concatenate(list(strips(loaded, alpha=True)))
    assert pixels[0, :, 3].tolist() == [255, 0]
    wanted = p3_in_srgb(np.array([[seen]], np.uint8))
    assert difference(pixels[:, :1, :3], wanted) <= 1.5
    assert difference(decode_upload(data, LIMIT)[:, :1], wanted) <= 1.5
    assert decode_upload(data, LIMIT)[0, 1].tolist() == [255, 255, 255]


def test_16_bit_grey_with_a_transparent_level_is_read_with_alpha() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 0, 0, 0, 0)) + chunk(b"tRNS", b"\0\1")
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\x80\x80")) + chunk(b"IEND", b"")
    with decoded(data, LIMIT) as image:
        assert next(strips(image, alpha=True)).tolist() == [[[128, 128, 128, 255]]]


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"no profile", id="letters"),
        pytest.param(P3[:200], id="cut"),
        pytest.param(P3[:132] + bytes(len(P3) - 132), id="empty tags"),
        pytest.param(profiles.grey_profile(1.0), id="of grey"),
        pytest.param(P3[:12] + b"link" + P3[16:], id="device link"),
        pytest.param(P3 + bytes(MAX_PROFILE_BYTES), id="too large"),
        pytest.param(profiles.endless_profile(), id="endless"),
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored(profile: bytes) -> None:
    data = saved(Image.fromarray(picture()), "WEBP", profile, lossless=True)
    assert np.array_equal(decoded_in_child(data), picture())


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
def test_files_are_srgb(output_format: str) -> None:
    data = encode(decode_upload(saved(Image.fromarray(picture()), "PNG", P3), LIMIT), output_format)
    assert "icc_profile" not in Image.open(io.BytesIO(data)).info
