"""Metadata of JPEG files: as much as their Exif segment holds, and what was cut is named."""

from __future__ import annotations

import json

import pytest

from app.imaging import encode, jpeg_parameters
from tests.unit.test_imaging import PARAMETERS, opened, picture


@pytest.mark.parametrize("text", ["x" * 100_000, "\N{PILE OF POO}" * 4000])
def test_a_jpeg_names_the_texts_that_its_exif_cannot_hold(text: str) -> None:
    long = {**PARAMETERS, "prompt": text, "negative_prompt": text[::2]}
    told = json.loads(opened(encode(picture(), "jpeg", long)).getexif().get_ifd(0x8769)[0x9286][8:])
    cut = told.pop("metadata_truncated")
    assert cut in (["prompt"], ["prompt", "negative_prompt"])
    assert {name: value for name, value in told.items() if name not in cut}.items() <= long.items()
    for name in cut:
        assert len(told[name]) > 1000
        assert long[name].startswith(told[name])
    assert "metadata_truncated" not in opened(encode(picture(), "png", long)).info["frontrunner"]
    assert opened(encode(picture(), "webp", long)).getexif()


def test_a_jpeg_holds_as_much_as_fits() -> None:
    told = jpeg_parameters({"prompt": "x" * 70_000, "seed": 7})
    assert 64_900 < len(json.dumps(told, separators=(",", ":"))) <= 65_000
    assert jpeg_parameters({"prompt": "x" * 64_900}) == {"prompt": "x" * 64_900}
