"""Weights in prompts, over HTTP on a tiny Stable Diffusion and on a model that takes none."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, running

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

ASKED = {"n_candidates": 2, "n": 2, "steps": 3, "seed": 7, "size": "32x32", "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    def load() -> Models:
        from models.generators.native import NativeGenerator
        from models.runtime.placement import prepare_process, select_device
        from tests.contract.families import FAMILIES

        prepare_process()
        pipe = FAMILIES["stable_diffusion"].build("stable_diffusion")
        return Models(NativeGenerator(pipe, select_device("cpu"), id="tiny"), FakeScorer())

    with running(tmp_path_factory.mktemp("house"), load=load, ready_s=240.0, buckets=(4,)) as house:
        yield house


def made(house: House, prompt: str, **asked: Any) -> dict[str, Any]:
    answer = house.post(json={**ASKED, "prompt": prompt, **asked}, timeout=60)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def images(house: House, body: dict[str, Any]) -> NDArray[np.int16]:
    """Pixels of both candidates, by index."""
    paths = (f"/v1/generations/{body['id']}/images/{index}" for index in range(2))
    files = [Image.open(io.BytesIO(house.client.get(path).content)) for path in paths]
    return np.stack([np.asarray(each, np.int16) for each in files])


def apart(house: House, one: dict[str, Any], other: dict[str, Any]) -> int:
    """The largest difference of two results in levels of 255."""
    return int(np.abs(images(house, one) - images(house, other)).max())


def ignored(body: dict[str, Any]) -> list[list[str]]:
    return [each["marks"] for each in body["warnings"] if each["code"] == "weights_ignored"]


def similarities(body: dict[str, Any]) -> list[tuple[float, float]]:
    by_index = sorted(body["data"], key=lambda one: one["index"])
    return [(one["similarity"], one["penalty"]) for one in by_index]


def test_weights_change_the_images_and_the_scorer_reads_no_marks(house: House) -> None:
    plain, ones, strong = (made(house, f"a {red} cat") for red in ("red", "(red:1.0)", "(red:1.9)"))
    assert apart(house, ones, plain) <= 1 < apart(house, strong, plain)
    assert (strong["prompt"], strong["ranking"]["prompt"], ignored(strong)) == ("a (red:1.9) cat", "a red cat", [])
    assert similarities(ones) == [pytest.approx(each, abs=1e-3) for each in similarities(plain)]
    path = f"/v1/generations/{strong['id']}/rerank"
    again = house.post(path, json={}).json()
    assert again["data"] == house.post(path, json={"ranking": {"prompt": "a red cat"}}).json()["data"]
    assert [one["index"] for one in again["data"]] == [one["index"] for one in strong["data"]]


def test_negative_prompts_take_weights_and_are_ranked_without_marks(house: House) -> None:
    plain, strong = (made(house, "a cat", negative_prompt=each) for each in ("blue", "(blue:1.9)"))
    assert apart(house, plain, strong) > 1
    assert strong["negative_prompt"] == "(blue:1.9)"
    assert [one["text"] for one in strong["data"][0]["negatives"]] == ["blue"]


def test_refine_keeps_weights_and_replaces_the_negative(house: House) -> None:
    source = made(house, "a (red:1.9) cat", negative_prompt="(blue:1.9)")
    body = {"index": 0, "seed": 1, "strength": 0.9}
    path = f"/v1/generations/{source['id']}/refine"
    kept = house.post(path, json=body).json()
    assert (kept["prompt"], kept["negative_prompt"]) == (source["prompt"], source["negative_prompt"])
    other = house.post(path, json={**body, "negative_prompt": "green"}).json()
    assert [one["text"] for one in kept["data"][0]["negatives"]] == ["blue"]
    assert [one["text"] for one in other["data"][0]["negatives"]] == ["green"]


def test_a_weight_out_of_range_is_text_with_a_warning(house: House) -> None:
    assert ignored(made(house, "a (red:20) cat (dog:1.2)")) == [["(red:20)"]]
    assert ignored(made(house, "a man (smiling) C++ (16:9) (red:1.4")) == []


def test_the_list_says_what_a_model_does_with_weights(house: House, tmp_path: Path) -> None:
    def says(house: House) -> str:
        found = house.client.get("/v1/models").json()["data"]
        (status,) = [one["generator"]["prompt_weights"] for one in found if "generator" in one]
        return str(status)

    assert says(house) == "applied"
    with running(tmp_path) as bare:
        assert says(bare) == "unsupported"
        marked = bare.post(json={"prompt": "a (red:1.4) cat, dog++", "negative_prompt": "(blue:1.3)"}).json()
        assert ignored(marked) == [["(red:1.4)", "dog++"], ["(blue:1.3)"]]
        assert [one["text"] for one in marked["data"][0]["negatives"]] == ["(blue:1.3)"]
        assert ignored(bare.post(json={"prompt": "a man (smiling), C++"}).json()) == []
