"""LoRA adapters of requests, over HTTP on a tiny Stable Diffusion."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app
from models.loras import LoraFolder
from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, running

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

ASKED = {"prompt": "a red apple", "n_candidates": 2, "n": 2, "steps": 3, "seed": 7, "size": "32x32"}
FILM, INK = {"name": "film", "weight": 0.8}, {"name": "ink", "weight": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.contract.adapter_kit import save_adapter

    made = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("film", "ink")):
        save_adapter("stable_diffusion", made / f"{name}.safetensors", seed, texts=name == "ink")
    save_adapter("flux", made / "flux.safetensors", 3)
    (made / "broken.safetensors").write_bytes(b"\0" * 100)
    return made


@pytest.fixture(scope="module")
def house(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    def load() -> Models:
        from models.generators.adapters import Adapters
        from models.generators.native import NativeGenerator
        from models.runtime.placement import prepare_process, select_device
        from tests.contract.families import FAMILIES

        prepare_process()
        pipe = FAMILIES["stable_diffusion"].build("stable_diffusion")
        adapters = Adapters(pipe, LoraFolder(folder))
        return Models(NativeGenerator(pipe, select_device("cpu"), id="tiny", adapters=adapters), FakeScorer())

    root = tmp_path_factory.mktemp("house")
    with running(root, load=load, ready_s=240.0, buckets=(4,), lora_dir=folder) as house:
        yield house


def made(house: House, **asked: Any) -> dict[str, Any]:
    answer = house.post(json={**ASKED, **asked}, timeout=60)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def images(house: House, body: dict[str, Any]) -> list[bytes]:
    """The pixels of the images, by index."""
    paths = (f"/v1/generations/{body['id']}/images/{index}" for index in range(2))
    return [Image.open(io.BytesIO(house.client.get(path).content)).tobytes() for path in paths]


def refused(house: House, loras: Any) -> httpx.Response:
    answer = house.post(json={**ASKED, "loras": loras})
    assert answer.status_code == 422, answer.text
    return answer


def test_requests_with_other_adapters_at_once_are_each_right(house: House) -> None:
    asked: list[Any] = [[FILM], [INK], [FILM, INK], []]
    alone = [images(house, made(house, loras=loras)) for loras in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda loras: images(house, made(house, loras=loras)), asked))
    assert together == alone
    assert len({one[0] for one in alone}) == len(asked)
    assert images(house, made(house)) == alone[3]


def test_the_answer_the_record_and_the_list_name_them(house: House) -> None:
    body = made(house, loras=[{"name": "film"}], provenance="metadata")
    assert body["loras"] == [{"name": "film", "weight": 1.0}]
    assert house.client.get(f"/v1/generations/{body['id']}").json()["loras"] == body["loras"]
    (model,) = [each for each in house.client.get("/v1/models").json()["data"] if "generator" in each]
    assert model["generator"]["loras"] == ["broken", "film", "flux", "ink"]
    assert model["generator"]["default_loras"] == []
    file = Image.open(io.BytesIO(house.client.get(f"/v1/generations/{body['id']}/images/0").content))
    assert json.loads(file.info["frontrunner"])["loras"] == body["loras"]


def test_refine_inherits_and_rerank_keeps_them(house: House) -> None:
    body = made(house, loras=[FILM])
    path = f"/v1/generations/{body['id']}"
    kept = house.post(f"{path}/refine", json={"index": 0, "seed": 1, "strength": 0.9}).json()
    replaced = house.post(f"{path}/refine", json={"index": 0, "seed": 1, "strength": 0.9, "loras": [INK]}).json()
    none = house.post(f"{path}/refine", json={"index": 0, "seed": 1, "strength": 0.9, "loras": []}).json()
    assert (kept["loras"], replaced["loras"], none["loras"]) == ([FILM], [INK], [])
    assert len({images(house, each)[0] for each in (kept, replaced, none)}) == 3
    again = house.post(f"{path}/rerank", json={"ranking": {"prompt": "a boat"}, "store": True}).json()
    assert again["loras"] == [FILM]


def test_auto_pruning_says_that_it_is_off(house: House) -> None:
    warnings = made(house, loras=[FILM], pruning="auto")["warnings"]
    assert [each["code"] for each in warnings if "LoRA" in each["detail"]] == ["pruning_uncalibrated"]


@pytest.mark.parametrize("name", ["unknown", "../film", "/etc/passwd", "film.safetensors", "FILM", ".", "a/../film"])
def test_an_unknown_name_is_422(house: House, name: str) -> None:
    answer = refused(house, [{"name": name}])
    assert "there is no LoRA adapter" in answer.json()["detail"]
    assert answer.json()["error"]["param"] == "loras"


@pytest.mark.parametrize(("name", "why"), [("broken", "damaged"), ("flux", "cannot be used with this model")])
def test_a_file_that_cannot_be_used_is_422(house: House, name: str, why: str) -> None:
    before = images(house, made(house, loras=[FILM]))
    assert why in refused(house, [FILM, {"name": name}]).json()["detail"]
    assert images(house, made(house, loras=[FILM])) == before


@pytest.mark.parametrize(
    "loras",
    [
        [{"name": "film", "weight": 4.1}],
        [{"name": "film", "weight": -5}],
        [{"name": "film", "weight": "1"}],
        [{"name": ""}],
        [{"name": "film", "scale": 1}],
        [FILM, FILM],
        [{"name": f"film{i}"} for i in range(9)],
        "film",
        {"film": 1},
    ],
)
def test_a_wrong_member_is_422(house: House, loras: Any) -> None:
    assert refused(house, loras).json()["errors"][0]["pointer"].startswith("#/loras")


def test_a_generator_without_adapters_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as bare:
        answer = bare.post(json={"prompt": "a red apple", "loras": [FILM]})
        assert answer.status_code == 422
        assert "takes no LoRA adapters" in answer.json()["detail"]
        (model,) = [each for each in bare.client.get("/v1/models").json()["data"] if "generator" in each]
        assert model["generator"]["loras"] == []


def test_tags_of_the_web_ui_name_adapters(house: House) -> None:
    assert {"film", "ink"} <= {one["name"] for one in house.client.get("/sdapi/v1/loras").json()}
    body = {"steps": 3, "width": 32, "height": 32, "frontrunner_candidates": 2}
    prompt = "a <lora:film:0.8> red <lora:ink> apple <lora:none:1> <hypernet:x:1>"
    answer = house.post("/sdapi/v1/txt2img", json={**body, "prompt": prompt}, timeout=60)
    assert answer.status_code == 200, answer.text
    info = json.loads(answer.json()["info"])
    behind = house.client.get(f"/v1/generations/{info['frontrunner']['id']}").json()
    assert behind["loras"] == [FILM, INK]
    assert "<" not in behind["prompt"]
    assert sum(one["code"] == "unsupported_parameter" for one in info["warnings"]) == 2
    wrong = house.post("/sdapi/v1/txt2img", json={**body, "prompt": "an apple <lora:film:9>"})
    assert (wrong.status_code, wrong.json()["detail"][:7]) == (422, "prompt:")


def test_the_command_line_names_adapters(house: House, tmp_path: Path) -> None:
    command = ["generate", "a red apple", "-c", "2", "-n", "1", "--steps", "3", "--size", "32x32"]
    command += ["--url", house.url, "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, "--lora", "film:0.8", "--lora", "ink"])
    assert done.exit_code == 0, done.output
    (newest,) = house.client.get("/v1/generations", params={"limit": 1}).json()["data"]
    assert house.client.get(f"/v1/generations/{newest['id']}").json()["loras"] == [FILM, INK]
    unknown = CliRunner().invoke(app, [*command, "--lora", "none:1"])
    assert (unknown.exit_code, "there is no LoRA adapter" in unknown.output) == (1, True)
    wrong = CliRunner().invoke(app, [*command, "--lora", "film:strong"])
    assert (wrong.exit_code, "--lora" in wrong.output) == (2, True)
