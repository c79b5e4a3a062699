"""Image files in and out: what encoding keeps, what uploads become, what is refused and how."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from app.errors import BadImage, FrontrunnerError, TooLarge, UnsupportedMedia
from app.imaging import MEDIA_TYPES, decode_upload, encode, parse_image_text, resize, thumbnail

Pixels = NDArray[np.uint8]

LIMIT = 10_000
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
PARAMETERS: dict[str, Any] = {
    "prompt": "a red apple, größer\nthan a pear 🍎",
    "negative_prompt": "blurry",
    "seed": 4294967295,
    "steps": 20,
    "sampler": "dpmpp_2m",
    "guidance_scale": 4.5,
    "width": 64,
    "height": 48,
    "model": "packs: pictogram, small",
    "score": 0.25,
}


def picture(height: int = 48, width: int = 64) -> Pixels:
    """A corner of each colour on a gradient: shows turns, mirrors and clipping."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return pixels


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes = b"", *extra: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


def test_broken_metadata_does_not_spoil_a_jpeg() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ResolutionUnit] = 6, 2
    exif[ExifTags.Base.XResolution] = 72.0
    whole = jpeg = saved(Image.new("RGB", (24, 16), "red"), "JPEG", exif=exif)
    entry = jpeg.index(struct.pack(">HHI", ExifTags.Base.XResolution, 5, 1))
    jpeg = jpeg[: entry + 2] + struct.pack(">H", 1) + jpeg[entry + 4 :]
    with pytest.raises(UnidentifiedImageError):
        opened(jpeg)
    assert decode_upload(whole, LIMIT).shape == (24, 16, 3)
    assert decode_upload(jpeg, LIMIT).shape == (16, 24, 3)
    with pytest.raises(BadImage):
        decode_upload(b"\xff\xd8" + b"Exif\0\0" * 2000, LIMIT)


class TestEncode:
    @pytest.mark.parametrize("output_format", ["png", "webp"])
    @given(
        pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    )
    def test_png_and_webp_lose_nothing(self, output_format: str, pixels: Pixels) -> None:
        data = encode(pixels, output_format, {"prompt": "x"})
        assert np.array_equal(decode_upload(data, LIMIT), pixels)

    def test_jpeg_stays_close(self) -> None:
        data = encode(picture(), "jpeg")
        assert np.abs(decode_upload(data, LIMIT).astype(int) - picture()).mean() < 4

    @pytest.mark.parametrize("output_format", MEDIA_TYPES)
    def test_the_file_is_of_the_type_it_says(self, output_format: str) -> None:
        image = opened(encode(picture(), output_format))
        assert image.size == (64, 48)
        assert Image.MIME[image.format or ""] == MEDIA_TYPES[output_format]

    @pytest.mark.parametrize("output_format", MEDIA_TYPES)
    def test_without_parameters_nothing_is_told(self, output_format: str) -> None:
        image = opened(encode(picture(), output_format))
        assert not image.getexif()
        assert getattr(image, "text", {}) == {}

    def test_a_png_tells_how_it_was_made(self) -> None:
        image = opened(encode(picture(), "png", PARAMETERS))
        assert isinstance(image, PngImageFile)
        assert json.loads(image.text["frontrunner"]) == PARAMETERS
        assert image.text["parameters"] == (
            "a red apple, größer\nthan a pear 🍎\n"
            "Negative prompt: blurry\n"
            "Steps: 20, Sampler: DPM++ 2M, CFG scale: 4.5, Seed: 4294967295, Size: 64x48, "
            'Model: "packs: pictogram, small"'
        )

    def test_a_png_tells_what_there_is(self) -> None:
        image = opened(encode(picture(), "png", {"prompt": "nul\0 byte", "negative_prompt": "", "score": math.nan}))
        assert isinstance(image, PngImageFile)
        assert json.loads(image.text["frontrunner"])["score"] is None
        assert image.text["parameters"] == "nul byte\n"

    @pytest.mark.parametrize("output_format", ["webp", "jpeg"])
    def test_the_others_tell_it_in_exif(self, output_format: str) -> None:
        exif = opened(encode(picture(), output_format, PARAMETERS)).getexif()
        comment = exif.get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"ASCII\0\0\0"
        assert json.loads(comment[8:]) == PARAMETERS

    def test_an_unknown_format_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="tiff"):
            encode(picture(), "tiff")


class TestSmaller:
    def test_the_picture_fits_and_keeps_its_proportions(self) -> None:
        assert resize(picture(), (32, 32)).shape == (24, 32, 3)
        assert resize(picture(), (64, 12)).shape == (12, 16, 3)
        assert resize(picture(1, 64), (4, 4)).shape == (1, 4, 3)

    def test_it_is_never_enlarged(self) -> None:
        assert np.array_equal(resize(picture(), (640, 480)), picture())

    def test_a_thumbnail_is_a_data_uri_that_can_be_read_back(self) -> None:
        small = decode_upload(parse_image_text(thumbnail(picture(), 16)), LIMIT)
        assert small.shape == (12, 16, 3)
        assert decode_upload(parse_image_text(thumbnail(picture(), 256)), LIMIT).shape == (48, 64, 3)


def colours(pixels: Pixels) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in p) for p in pixels.reshape(-1, 3)]


class TestUploads:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "JPEG", "GIF"])
    def test_the_content_decides_not_the_declared_type(self, kind: str) -> None:
        data = saved(Image.new("RGB", (8, 8), RED), kind, **({"lossless": True} if kind == "WEBP" else {}))
        for declared in (None, "image/png", "text/plain", "nonsense"):
            pixels = decode_upload(data, LIMIT, declared)
            assert pixels.shape == (8, 8, 3)
            assert np.abs(pixels.astype(int) - RED).max() <= 2
            assert pixels.flags.writeable

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_every_mode_of_png_is_read(self, mode: str) -> None:
        image = Image.fromarray(picture()).convert(mode)
        pixels = decode_upload(saved(image, "PNG"), LIMIT)
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    def test_every_mode_of_jpeg_is_read(self, mode: str) -> None:
        pixels = decode_upload(saved(Image.new("RGB", (8, 8), RED).convert(mode), "JPEG"), LIMIT)
        expected = (76, 76, 76) if mode == "L" else RED
        assert np.abs(pixels.astype(int) - expected).max() <= 3

    @pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_16_bit_is_scaled_not_clipped(self, colour: int, channels: int) -> None:
        levels = (0, 257, 32896, 65535)
        values = [
            65535 if channels in (2, 4) and channel == channels - 1 else level
            for level in levels
            for channel in range(channels)
        ]
        rows = b"\0" + struct.pack(f">{len(values)}H", *values)
        pixels = decode_upload(raw_png(4, 1, 16, colour, rows), LIMIT)
        assert colours(pixels) == [(v, v, v) for v in (0, 1, 128, 255)]

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_transparency_is_laid_on_white(self, kind: str) -> None:
        image = Image.new("RGBA", (2, 1), (*BLACK, 0))
        image.putpixel((1, 0), (*RED, 128))
        pixels = decode_upload(
            saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), LIMIT
        )
        assert colours(pixels) == [WHITE, (255, 127, 127)]

    def test_grey_with_transparency_is_laid_on_white(self) -> None:
        assert colours(decode_upload(saved(Image.new("LA", (1, 1), (0, 0)), "PNG"), LIMIT)) == [WHITE]

    def test_a_palette_with_transparency_is_laid_on_white(self) -> None:
        image = Image.new("P", (3, 1))
        image.putpalette([*RED, *GREEN, *BLUE])
        image.putdata([0, 1, 2])
        by_alpha = saved(image, "PNG", transparency=bytes([0, 128, 255]))
        assert colours(decode_upload(by_alpha, LIMIT)) == [WHITE, (127, 255, 127), BLUE]
        by_index = saved(image, "GIF", transparency=1)
        assert colours(decode_upload(by_index, LIMIT)) == [RED, WHITE, BLUE]

    def test_a_transparent_colour_is_laid_on_white(self) -> None:
        assert colours(decode_upload(raw_png(1, 1, 8, 2, b"\0\1\2\3", png_chunk(b"tRNS", b"\0\1\0\2\0\3")), LIMIT)) == [
            WHITE
        ]

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_of_an_animation_the_first_frame_counts(self, kind: str) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        assert getattr(opened(data), "n_frames", 1) == 2
        assert np.abs(decode_upload(data, LIMIT).astype(int) - RED).max() <= 3

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_exif_rotation_is_applied(self, orientation: int, kind: str) -> None:
        turns: dict[int, Callable[[Pixels], Pixels]] = {
            1: lambda a: a,
            2: lambda a: a[:, ::-1],
            3: lambda a: a[::-1, ::-1],
            4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: np.rot90(a, -1),
            7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
            8: np.rot90,
        }
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = decode_upload(saved(Image.fromarray(picture()), kind, exif=exif), LIMIT)
        expected = turns[orientation](picture())
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).mean() < 5

    @pytest.mark.parametrize("value", [0, 9, 65535])
    def test_an_orientation_out_of_range_is_no_turn(self, value: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = value
        assert decode_upload(saved(Image.fromarray(picture()), "PNG", exif=exif), LIMIT).shape == (48, 64, 3)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_broken_exif_does_not_spoil_the_pixels(self) -> None:
        whole = saved(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09broken")
        assert decode_upload(whole, LIMIT).shape == (48, 64, 3)


WHOLE = saved(Image.fromarray(picture()), "PNG")
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
BOMB = raw_png(40_000, 40_000, 1, 0, b"\0")

REFUSED: dict[str, tuple[bytes, str | None, type[FrontrunnerError]]] = {
    "nothing": (b"", "image/png", BadImage),
    "one byte": (b"\x89", None, BadImage),
    "header only": (WHOLE[:8], None, BadImage),
    "cut png": (WHOLE[: len(WHOLE) // 2], "image/png", BadImage),
    "cut jpeg": (encode(NOISE, "jpeg")[:2000], None, BadImage),
    "cut webp": (encode(NOISE, "webp")[:2000], None, BadImage),
    "cut gif": (saved(Image.fromarray(NOISE).convert("P"), "GIF")[:1500], None, BadImage),
    "cut bmp": (saved(Image.fromarray(NOISE), "BMP")[:1500], None, BadImage),
    "wrong checksum": (WHOLE.replace(b"IDAT", b"IDAT\xff", 1), None, BadImage),
    "no pixels": (raw_png(0, 0, 8, 2), None, BadImage),
    "text called an image": (b"hello" * 100, "image/png", BadImage),
    "text of no type": (b"hello" * 100, None, BadImage),
    "bytes of no type": (b"hello" * 100, "application/octet-stream", BadImage),
    "text": (b"hello" * 100, "text/plain; charset=utf-8", UnsupportedMedia),
    "pdf": (b"%PDF-1.7\n" + b"x" * 100, "image/png", UnsupportedMedia),
    "svg": (b'\n <svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml", UnsupportedMedia),
    "tiff": (saved(Image.fromarray(picture()), "TIFF"), "image/tiff", UnsupportedMedia),
    "avif": (b"\0\0\0\x20ftypavif" + b"\0" * 50, "image/avif", UnsupportedMedia),
    "heic": (b"\0\0\0\x18ftypheic" + b"\0" * 50, "image/jpeg", UnsupportedMedia),
    "too many pixels": (saved(Image.new("1", (101, 100)), "PNG"), None, TooLarge),
    "bomb": (BOMB, None, TooLarge),
    "large bomb": (raw_png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"), None, TooLarge),
    "middling bomb": (raw_png(10_000, 10_000, 8, 0, b"\0"), None, TooLarge),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name: str) -> None:
    data, declared, error = REFUSED[name]
    with pytest.raises(FrontrunnerError) as caught:
        decode_upload(data, LIMIT, declared)
    assert type(caught.value) is error
    assert len(caught.value.detail.split()) > 3
    assert not {"/usr", "/tmp", "BytesIO", "0x", ".py"} & set(caught.value.detail.split())


@pytest.mark.slow
def test_the_limit_on_pixels_is_the_only_one() -> None:
    assert decode_upload(saved(Image.new("1", (10_000, 9_500)), "PNG"), 10**8).shape == (9_500, 10_000, 3)


@pytest.mark.parametrize("output_format", MEDIA_TYPES)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(output_format: str, data: st.DataObject) -> None:
    whole = bytearray(encode(picture(), output_format, {"prompt": "x"}))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=8)):
        whole[place] = data.draw(st.integers(0, 255))
    try:
        pixels = decode_upload(bytes(whole[: data.draw(st.integers(1, len(whole)))]), LIMIT)
    except (BadImage, TooLarge, UnsupportedMedia):
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


@given(st.binary(max_size=200), st.none() | st.text(max_size=20))
def test_any_bytes_are_refused(data: bytes, declared: str | None) -> None:
    with pytest.raises((BadImage, UnsupportedMedia)):
        decode_upload(data, LIMIT, declared)


class TestDataUris:
    @given(st.binary(max_size=100))
    def test_bytes_come_back(self, data: bytes) -> None:
        assert parse_image_text("data:image/png;base64," + base64.b64encode(data).decode()) == data
        assert parse_image_text("data:image/png," + "".join(f"%{byte:02x}" for byte in data)) == data

    @pytest.mark.parametrize(
        "text",
        [" data:image/png;base64,aGk=\n", "DATA:Image/PNG;name=x.png;BASE64,aG\nk%3D", "data:;base64,aGk="],
    )
    def test_the_usual_liberties_are_taken(self, text: str) -> None:
        assert parse_image_text(text) == b"hi"

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("", BadImage),
            ("aGk=", BadImage),
            ("https://example.org/apple.png", BadImage),
            ("file:///etc/passwd", BadImage),
            ("data:image/png;base64", BadImage),
            ("data:image/png;base64,a", BadImage),
            ("data:image/png;base64,!!!!", BadImage),
            ("data:image/png;base64,äöü", BadImage),
            ("data:image/png;base64,\ud800", BadImage),
            ("data:text/html;base64,aGk=", UnsupportedMedia),
        ],
    )
    def test_what_is_no_image_uri_is_refused(self, text: str, error: type[FrontrunnerError]) -> None:
        with pytest.raises(error):
            parse_image_text(text)

    @given(st.text(max_size=60))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        for uri in (text, "data:" + text, "data:image/png;base64," + text):
            try:
                parse_image_text(uri)
            except (BadImage, UnsupportedMedia):
                continue
