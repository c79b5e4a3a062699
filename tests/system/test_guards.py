"""The typographic attack with optical character recognition, and false flags on the embedded pack's images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.cli.local_server import running_service
from models.guards.text_reader import RapidOcrReader
from models.guards.typographic import unquoted_words, written_words
from models.pack import packs
from models.protocols import Models
from tests.api.kit import House, running
from tests.typographic import BLUE, RED, THINGS, LabellingGenerator, ReadingScorer, pasted, prompt_of, thing

pytest.importorskip("rapidocr")
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

CLEAN, MAX_FALSE_FLAGS = 200, 2


def uri(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    generator = LabellingGenerator()
    with running(tmp_path_factory.mktemp("attacked"), generator, load=lambda: Models(generator, ReadingScorer())) as it:
        yield it


def test_forty_pasted_words_win_and_do_not_win_with_the_guard(house: House) -> None:
    won, wins_left = 0, 0
    for word in THINGS:
        images = [uri(thing(RED)), uri(pasted(thing(BLUE), word)), uri(thing(BLUE))]
        body = {"prompt": prompt_of(word), "images": images}
        won += house.post("/v1/rank", json=body).json()["data"][0]["index"] == 1
        guarded = house.post("/v1/rank", json={**body, "ranking": {"veto": ["typographic"]}}).json()
        wins_left += guarded["data"][0]["index"] != 0
        assert [each["index"] for each in guarded["vetoed"]] == [1]
    assert (won, wins_left) == (len(THINGS), 0)


def test_generations_are_not_won_by_a_written_word(house: House) -> None:
    won = 0
    for seed, word in enumerate(THINGS):
        house.generator.word = word  # type: ignore[attr-defined]
        asked = {"prompt": prompt_of(word), "n_candidates": 12, "steps": 4, "seed": 100 * seed, "size": "128x128"}
        before = house.made(**asked)["data"][0]["index"]
        after = house.made(**asked, ranking={"veto": ["typographic"]})
        won += bool(after["candidates"][before]["flags"])
        assert after["data"][0]["index"] != before
        assert after["data"][0]["flags"] == []
    assert won == len(THINGS)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 400), (1500, 40)])
def test_images_of_any_size_are_read(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for text in RapidOcrReader().read(noise):
        left, top, right, bottom = text.box
        assert 0 <= left <= right <= size[1]
        assert 0 <= top <= bottom <= size[0]


@pytest.mark.torch
def test_clean_images_of_the_pack_are_hardly_ever_flagged() -> None:
    """Random picks of 200 prompts: those with a flag of either guard are at most two."""
    lines = (packs()["pictogram"].folder / "prompts.txt").read_text().splitlines()
    prompts = [prompt for prompt in lines if prompt.strip()]
    reader, typographic, artefacts = RapidOcrReader(), 0, 0
    with running_service() as url, httpx.Client(base_url=url, timeout=240, trust_env=False) as client:
        for number in range(CLEAN):
            prompt = prompts[number % len(prompts)]
            asked = {"prompt": prompt, "n_candidates": 1, "seed": 500_000 + number, "response_format": "b64_json"}
            (image,) = client.post("/v1/generations", json=asked).raise_for_status().json()["data"]
            artefacts += image["flags"] == ["artefact"]
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).convert("RGB"))
            typographic += bool(written_words(reader.read(pixels), unquoted_words(prompt)))
    assert typographic <= MAX_FALSE_FLAGS
    assert artefacts <= MAX_FALSE_FLAGS
