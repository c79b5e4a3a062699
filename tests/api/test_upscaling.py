"""Larger files than sampled ones: by the upscaler where there is one, winners only, told in every answer."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.engine.warmup import Progress
from app.main import _load_models
from app.settings import Settings
from models.protocols import Models, OutOfMemory
from models.synthetic.scorer import FakeScorer
from models.synthetic.upscaler import FakeUpscaler
from tests.api.kit import House, is_problem, running
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow


class Instrumented(FakeUpscaler):
    """Counts its calls by the sides of what they took; more than `most` pixels do not fit into memory."""

    def __init__(self, factor: int = 4, tile: int = 4096, most: int | None = None) -> None:
        super().__init__(factor, tile)
        self.prompts: list[str] = []
        self.sides: list[tuple[int, int]] = []
        self.most = most

    def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        if self.most is not None and image.shape[0] * image.shape[1] > self.most:
            raise OutOfMemory("full")
        self.sides.append(image.shape[:2])
        self.prompts.append(prompt)
        return super().upscale(image, prompt, seed)


@contextmanager
def serving(tmp_path: Path, upscaler: Instrumented | None) -> Iterator[House]:
    def load() -> Models:
        return Models(InstrumentedGenerator(), FakeScorer(), upscaler=upscaler)

    with running(tmp_path, load=load) as house:
        yield house


def picture(house: House, url: str, **params: Any) -> tuple[Image.Image, str | None]:
    answer = house.client.get(url, params=params)
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content)), answer.headers.get("x-frontrunner-upscaler")


def told(made: dict[str, Any]) -> dict[str, Any] | None:
    return next((w for w in made["warnings"] if w["code"] == "upscaled"), None)


def blocks(image: Image.Image) -> bool:
    """Whether the image is made of repeated pixels, 4 by 4: only the fake upscaler makes such ones."""
    pixels = np.asarray(image.convert("RGB"))
    small = pixels[::4, ::4]
    return bool(np.array_equal(np.repeat(np.repeat(small, 4, axis=0), 4, axis=1), pixels))


def test_winners_go_through_the_upscaler_and_every_form_says_so(tmp_path: Path) -> None:
    upscaler = Instrumented()
    with serving(tmp_path, upscaler) as house:
        made = house.made(size="64x64", output_size="256x256", n=2, provenance="metadata")
        notice = told(made)
        assert notice is not None
        assert (notice["upscaler"], notice["factor"], notice["reason"]) == ("fake-upscaler", 4, None)
        assert sorted(notice["indices"]) == sorted(each["index"] for each in made["data"])
        assert upscaler.sides == [(64, 64)] * 2, "winners only"
        best, header = picture(house, made["data"][0]["url"])
        assert (best.size, header, blocks(best)) == ((256, 256), "fake-upscaler; factor=4", True)
        assert json.loads(best.info["frontrunner"])["upscaler"] == "fake-upscaler"
        loser = next(i for i in range(3) if i not in notice["indices"])
        other, header = picture(house, f"/v1/generations/{made['id']}/images/{loser}.png")
        assert (other.size, header, blocks(other)) == ((256, 256), "lanczos; factor=4", False)
        answer = house.post(
            json={"prompt": "x", "steps": 2, "n_candidates": 2, "output_size": "256x256"},
            headers={"accept": "image/png"},
        )
        assert answer.headers["x-frontrunner-upscaler"] == "fake-upscaler; factor=4"


def test_a_size_that_is_not_larger_calls_no_upscaler(tmp_path: Path) -> None:
    upscaler = Instrumented()
    with serving(tmp_path, upscaler) as house:
        for asked in ({}, {"size": "64x64", "output_size": "32x64"}, {"size": "128x128", "output_size": "100x128"}):
            made = house.made(**asked, provenance="metadata")
            image, header = picture(house, made["data"][0]["url"])
            assert (told(made), header) == (None, None)
        assert upscaler.sides == []
        assert "upscaler" not in json.loads(image.info["frontrunner"])


def test_a_larger_view_is_made_once_and_fits_the_box(tmp_path: Path) -> None:
    upscaler = Instrumented()
    with serving(tmp_path, upscaler) as house:
        made = house.made(size="64x32", n=1)
        url, index = made["data"][0]["url"], made["data"][0]["index"]
        image, header = picture(house, url, size="256x256")
        assert (image.size, header, blocks(image)) == ((256, 128), "fake-upscaler; factor=4", True)
        assert picture(house, url, size="200x200")[0].size == (200, 100)
        assert upscaler.sides == [(32, 64)], "the result of the first call is stored"
        assert picture(house, url, size="1024x1024")[1] == "fake-upscaler; factor=16"
        assert upscaler.sides[1:] == [(32, 64), (128, 256)], "twice for 16 times"
        assert picture(house, url, size="32x32")[1] is None
        loser = next(i for i in range(3) if i != index)
        assert picture(house, f"/v1/generations/{made['id']}/images/{loser}", size="128x128")[1] == "lanczos; factor=2"
        assert len(upscaler.sides) == 3
        is_problem(house.client.get(url, params={"size": "4097x4097"}), 422, "invalid_request", "#/size")
        house.client.delete(f"/v1/generations/{made['id']}")
        assert not list((tmp_path / "data" / "blobs").rglob("*upscaled*")), "deleted with its generation"


def test_without_an_upscaler_the_filter_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, None) as house:
        made = house.made(size="64x64", output_size="160x160")
        notice = told(made)
        assert notice is not None
        assert (notice["upscaler"], notice["factor"]) == ("lanczos", 2.5)
        assert picture(house, made["data"][0]["url"])[1] == "lanczos; factor=2.5"
        assert picture(house, made["data"][0]["url"], size="320x320")[1] == "lanczos; factor=2"
        assert all("upscaler" not in each for each in house.client.get("/v1/models").json()["data"])


def test_large_images_go_in_tiles_and_full_memory_takes_smaller_ones(tmp_path: Path) -> None:
    upscaler = Instrumented(factor=2, tile=4096, most=130 * 130)
    with serving(tmp_path, upscaler) as house:
        made = house.made(size="256x192", output_size="512x384", n=1)
        assert told(made) is not None
        assert max(max(each) for each in upscaler.sides) == 128, "256 did not fit, half of it did"
        image = np.asarray(picture(house, made["data"][0]["url"])[0].convert("RGB"))
        whole = np.repeat(np.repeat(image[::2, ::2], 2, axis=0), 2, axis=1)
        assert np.array_equal(image, whole), "no seams"
        before = len(upscaler.sides)
        house.made(size="256x192", output_size="512x384", n=1)
        assert len(upscaler.sides) == 2 * before, "the size that fitted is remembered"


def test_an_upscaler_that_fails_is_told_and_the_image_is_filtered(tmp_path: Path) -> None:
    with serving(tmp_path, Instrumented(most=10)) as house:
        made = house.made(size="64x64", output_size="256x256", n=2)
        notice = told(made)
        assert notice is not None
        assert notice["upscaler"] == "lanczos"
        assert "memory" in notice["reason"]
        image, header = picture(house, made["data"][1]["url"])
        assert (image.size, header) == ((256, 256), "lanczos; factor=4")
        assert house.made()["status"] == "succeeded"


def test_other_formats_and_rerankings_keep_the_upscaled_image(tmp_path: Path) -> None:
    upscaler = Instrumented()
    with serving(tmp_path, upscaler) as house:
        made = house.made(size="64x64", output_size="256x256", n=1, output_format="jpeg")
        index = made["data"][0]["index"]
        where = f"/v1/generations/{made['id']}"
        exact, header = picture(house, f"{where}/images/{index}", format="png")
        assert (header, blocks(exact)) == ("fake-upscaler; factor=4", True)
        stored = house.post(f"{where}/rerank", json={"n": 3, "store": True}).json()
        headers = {i: picture(house, f"/v1/generations/{stored['id']}/images/{i}.jpeg")[1] for i in range(3)}
        assert headers.pop(index) == "fake-upscaler; factor=4"
        assert set(headers.values()) == {"lanczos; factor=4"}


def test_models_list_the_upscaler(tmp_path: Path) -> None:
    with serving(tmp_path, Instrumented(tile=512)) as house:
        listed = {each["id"]: each for each in house.client.get("/v1/models").json()["data"]}
        assert listed["fake-upscaler"]["upscaler"] == {
            "revision": "repeat-4",
            "architecture": "nearest",
            "factor": 4,
            "tile": 512,
            "device": "cpu",
            "dtype": "uint8",
        }
        assert house.client.get("/v1/models/fake-upscaler").json() == listed["fake-upscaler"]


def test_the_setting_loads_it(tmp_path: Path) -> None:
    both: dict[str, Any] = {"generator": "fake", "scorer": "fake", "data_dir": tmp_path}
    assert _load_models(Settings(**both), Progress()).upscaler is None
    loaded = _load_models(Settings(**both, upscaler="fake"), Progress()).upscaler
    assert loaded is not None
    assert loaded.info.id == "fake-upscaler"
    with pytest.raises(ValueError, match="upscaler_tile"):
        Settings(**both, upscaler_tile=10)


def test_the_upscaler_reads_the_wording_that_an_image_was_sampled_from(tmp_path: Path) -> None:
    upscaler = Instrumented()
    with serving(tmp_path, upscaler) as house:
        words = ["a red apple", "a green apple"]
        asked = {"variants": words, "n_candidates": 2, "n": 2, "output_size": "256x256"}
        made = house.made(prompt="an apple", **asked)
        assert sorted(set(upscaler.prompts)) == sorted(words)
        upscaler.prompts.clear()
        picture(house, made["data"][0]["url"], size="512x512")
        assert set(upscaler.prompts) <= {made["data"][0]["wording"]}


EXTRA = "/sdapi/v1/extra-single-image"


def _extra(house: House, image: NDArray[np.uint8], **members: Any) -> tuple[NDArray[np.uint8], str]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    body = {"image": base64.b64encode(file.getvalue()).decode(), **members}
    answer = house.post(EXTRA, json=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert list(made) == ["html_info", "image"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(made["image"])))), made["html_info"]


def test_a_web_ui_enlarges_one_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    upscaler = Instrumented()
    with serving(tmp_path, upscaler) as house:
        names = [one["name"] for one in house.client.get("/sdapi/v1/upscalers").json()]
        assert names == ["None", "Lanczos", upscaler.info.id]
        same, told = _extra(house, image, upscaling_resize=4)
        np.testing.assert_array_equal(same, image)
        assert told == ""
        filtered, told = _extra(house, image, upscaler_1="Lanczos", gfpgan_visibility=0.5)
        assert filtered.shape == (40, 60, 3)
        assert "upscale by: 2, Postprocess upscaler: Lanczos" in told
        assert "gfpgan_visibility has no effect" in told
        assert upscaler.sides == []
        larger, told = _extra(house, image, upscaler_1=names[2], upscaling_resize="3")
        assert larger.shape == (60, 90, 3)
        assert upscaler.sides == [(20, 30)]
        assert f"Postprocess upscaler: {names[2]}" in told
        size = {"resize_mode": 1, "upscaling_resize_w": 64, "upscaling_resize_h": 64}
        assert _extra(house, image, upscaler_1="Lanczos", **size)[0].shape == (64, 64, 3)
        assert _extra(house, image, upscaler_1="Lanczos", upscaling_crop=False, **size)[0].shape == (64, 96, 3)
        mixed = _extra(house, image, upscaler_1="Lanczos", upscaler_2=names[2], extras_upscaler_2_visibility=0.5)[0]
        parts = filtered, _extra(house, image, upscaler_1=names[2])[0]
        np.testing.assert_allclose(mixed, np.mean(parts, axis=0), atol=0.51)


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"upscaler_1": "ESRGAN_4x"}, "#/upscaler_1"),
        ({"upscaler_1": "Lanczos", "upscaler_2": "x"}, "#/upscaler_2"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 9}, "#/upscaling_resize"),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 90_000}, "#/upscaling_resize_w"),
        ({"image": "?"}, "#/image"),
        ({"image": None}, "#/image"),
    ],
)
def test_what_a_web_ui_cannot_enlarge_is_refused(tmp_path: Path, members: dict[str, Any], pointer: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with serving(tmp_path, None) as house:
        answer = house.post(EXTRA, json={"image": base64.b64encode(file.getvalue()).decode(), **members})
    assert answer.status_code in (400, 422), answer.text
    assert pointer.removeprefix("#/") in answer.text
