"""Several models in one service: who serves a request, on every face."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.cli.serve import DrainingServer, server_config
from app.engine.local import LocalEngine
from app.engine.registry import ModelRegistry
from app.main import create_app
from app.settings import Settings
from models.protocols import Models
from tests.api.kit import PROMPT, House, events, is_problem, running, until
from tests.api.test_a1111 import refused
from tests.api.test_rerank import uri
from tests.models_kit import FakeModel, Shelf, broken

STREAM = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf(FakeModel("large"), FakeModel("small"), FakeModel("broken", problems=[broken()]))


@pytest.fixture(scope="module")
def house(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    aliases = "dall-e-*=*,mine=small"
    with running(tmp_path_factory.mktemp("several"), registry=shelf.registry, model_aliases=aliases) as it:
        yield it


def test_each_request_is_made_by_the_model_that_it_names(house: House, shelf: Shelf) -> None:
    before = shelf.models["large"].calls, shelf.models["small"].calls
    assert house.made(model="small")["model"] == "small"
    assert shelf.models["large"].calls == before[0]
    assert shelf.models["small"].calls > before[1]
    assert house.made()["model"] == "large"


@pytest.mark.slow
def test_mixed_requests_at_once_have_the_results_of_one_model_alone(house: House) -> None:
    async def ask() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=house.url, timeout=60) as client:
            bodies = [{**PROMPT, "seed": turn // 2, "model": ("large", "small")[turn % 2]} for turn in range(12)]
            answers = await asyncio.gather(*(client.post("/v1/generations", json=body) for body in bodies))
            return [answer.json() for answer in answers]

    made = asyncio.run(ask())
    assert [one["model"] for one in made] == ["large", "small"] * 6
    scores = [[c["score"] for c in one["candidates"]] for one in made]
    assert scores[::2] == scores[1::2]  # the fakes draw alike
    assert len({tuple(row) for row in scores}) == 6


def test_an_unknown_model_is_refused_with_the_names_that_are_served(house: House) -> None:
    body = is_problem(house.post(json={**PROMPT, "model": "none"}), 404, "not_found", "#/model")
    assert "large, small, broken" in body["detail"]


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_own_requests(house: House) -> None:
    until(lambda: _serving(house, "broken")["state"] == "failed")
    body = is_problem(house.post(json={**PROMPT, "model": "broken"}), 503, "model_load_failed")
    assert "generator 'gone' not found" in body["detail"]
    assert house.made(model="small")["status"] == "succeeded"
    ready = house.client.get("/readyz")
    assert ready.json() == {"status": "ready", "models": {"large": "loaded", "small": "loaded", "broken": "failed"}}


def _serving(house: House, model: str) -> dict[str, Any]:
    found: dict[str, Any] = house.client.get(f"/v1/models/{model}").json()["serving"]
    return found


def test_the_list_has_every_model_and_how_it_is_served(house: House) -> None:
    until(lambda: _serving(house, "broken")["state"] == "failed")
    listed = {one["id"]: one for one in house.client.get("/v1/models").json()["data"]}
    assert list(listed)[:3] == ["large", "fake", "small"]
    (replica,) = listed["large"]["serving"]["replicas"]
    assert listed["large"]["serving"] == {
        "state": "loaded",
        "here": True,
        "replicas": {replica: "loaded"},
        "resident": True,
        "default": True,
        "weight_bytes": 0,
        "scorer": "fake",
        "problem": None,
    }
    assert listed["small"]["generator"]["steps"] == 8
    assert "generator" not in listed["broken"]
    assert "'gone' not found" in listed["broken"]["serving"]["problem"]


def test_metrics_are_sums_and_counts_by_model(house: House) -> None:
    house.made(model="small")
    text = house.client.get("/metrics").text
    assert 'frontrunner_model_loaded{model="small"} 1.0' in text
    assert 'frontrunner_model_loads_total{model="broken",outcome="failed"} 1.0' in text
    assert "\nfrontrunner_ready 1.0" in text


def test_streams_and_background_requests_choose_a_model_too(house: House) -> None:
    stream = house.post(json={**PROMPT, "model": "small"}, headers=STREAM)
    assert events(stream.text)[-1][2]["model"] == "small"
    assert house.queued(model="small")["model"] == "small"


def test_a_generation_is_ranked_refined_and_drawn_by_its_model(house: House, shelf: Shelf) -> None:
    made = house.made(model="small", n=1)
    before = shelf.models["large"].calls
    again = house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"prompt": "a blue boat"}})
    assert again.json()["model"] == "small"
    other = next(c["index"] for c in made["candidates"] if c["rank"] is None or c["rank"] > 1)
    assert house.client.get(f"/v1/generations/{made['id']}/images/{other}").status_code == 200
    refined = house.post(f"/v1/generations/{made['id']}/refine", json={"index": 0, "n_candidates": 2, "steps": 4})
    assert (refined.status_code, refined.json()["model"]) == (200, "small")
    assert shelf.models["large"].calls == before


def test_entries_of_a_batch_name_their_models(house: House) -> None:
    entries = [{**PROMPT, "model": "small"}, PROMPT, {**PROMPT, "model": "none"}]
    problem = is_problem(house.post("/v1/batches", json={"requests": entries}), 422, "invalid_request")
    assert "#/requests/2/model" in str(problem["errors"])
    batch = house.post("/v1/batches", json={"requests": entries[:2]}).json()

    def ended() -> list[dict[str, Any]]:
        found = house.client.get(f"/v1/batches/{batch['id']}").json()["entries"]
        return found if all(one["status"] == "succeeded" for one in found) else []

    until(ended)
    names = [house.client.get(f"/v1/generations/{one['id']}").json()["model"] for one in ended()]
    assert names == ["small", "large"]


def test_aliases_lead_to_one_of_several_models(house: House) -> None:
    for name, model in (("dall-e-3", "large"), ("mine", "small"), ("small", "small")):
        answer = house.post("/v1/images/generations", json={"prompt": "a red apple", "model": name})
        assert (answer.status_code, answer.json()["model"]) == (200, model)
    unknown = house.post("/v1/images/generations", json={"prompt": "a red apple", "model": "other"})
    is_problem(unknown, 404, "not_found", "#/model")
    scorer = house.post("/v1/images/generations", json={"prompt": "a red apple", "model": "fake"})
    is_problem(scorer, 422, "wrong_model_kind", "#/model")


def test_the_web_ui_lists_and_chooses_checkpoints(house: House) -> None:
    titles = [one["title"] for one in house.client.get("/sdapi/v1/sd-models").json()]
    assert titles == ["large", "small", "broken"]
    asked = {"prompt": "a red apple", "steps": 4, "override_settings": {"sd_model_checkpoint": "small.safetensors"}}
    assert '"sd_model_name": "small"' in house.post("/sdapi/v1/txt2img", json=asked).json()["info"]
    asked["override_settings"] = {"sd_model_checkpoint": "none"}
    refused(house.post("/sdapi/v1/txt2img", json=asked), 404, "not_found", "'none' is not served")
    assert house.client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "large"
    told = house.post("/sdapi/v1/options", json={"sd_model_checkpoint": "small"}).json()
    assert "override_settings" in told["warnings"][0]["detail"]


def test_uploads_are_ranked_and_embedded_by_a_models_scorer(house: House) -> None:
    ranked = house.post("/v1/rank", json={"prompt": "red", "images": [uri("red")], "model": "small"})
    assert ranked.status_code == 200
    is_problem(
        house.post("/v1/rank", json={"prompt": "red", "images": [uri("red")], "model": "none"}), 404, "not_found"
    )
    scorer = house.post("/v1/rank", json={"prompt": "red", "images": [uri("red")], "model": "fake"})
    detail = is_problem(scorer, 422, "invalid_request", "#/model")["detail"]
    assert detail == "model: 'fake' is the main scorer of the model 'large': send `model` 'large'"
    assert house.post("/v1/embeddings", json={"input": "red", "model": "fake"}).json()["model"] == "fake"
    is_problem(house.post("/v1/embeddings", json={"input": "red", "model": "small"}), 422, "wrong_model_kind")


@pytest.mark.parametrize("named", [{}, {"model": "text-embedding-3-small"}])
@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1/embeddings", {"input": "red"}), ("/v1/rerank", {"query": "red", "documents": ["a red apple", "grass"]})],
)
def test_scorers_of_a_default_model_that_still_loads_are_waited_for(
    tmp_path: Path, path: str, asked: dict[str, Any], named: dict[str, str]
) -> None:
    shelf, answers = Shelf(FakeModel("first")), list[httpx.Response]()
    shelf.models["first"].gate.clear()
    aliases = "text-embedding-*=*"
    with running(tmp_path, registry=shelf.registry, wait=False, model_aliases=aliases) as house:
        asking = threading.Thread(target=lambda: answers.append(house.post(path, json={**asked, **named})))
        asking.start()
        asking.join(0.2)
        shelf.models["first"].gate.set()
        asking.join(30)
        assert answers[0].status_code == 200, answers[0].text


@pytest.mark.slow
def test_a_model_loads_when_a_request_names_it_and_makes_room_when_another_is_needed(tmp_path: Path) -> None:
    models = [FakeModel("first"), *(FakeModel(name, resident=False, size=60) for name in ("one", "two"))]
    shelf = Shelf(*models, budget=100)
    with running(tmp_path, registry=shelf.registry) as house:
        assert house.client.get("/readyz").json()["models"] == {"first": "loaded", "one": "waiting", "two": "waiting"}
        assert "generator" not in house.client.get("/v1/models/one").json()
        first = events(house.post(json={**PROMPT, "model": "one"}, headers=STREAM).text)
        assert first[0] == ("loading", None, {"model": "one"})
        assert [kind for kind, *_ in first[1:3]] == ["queued", "started"]
        assert first[-1][2]["model"] == "one"
        assert house.made(model="two")["model"] == "two"
        assert _serving(house, "one")["state"] == "waiting"
        stream = events(house.post(json={**PROMPT, "model": "one"}, headers=STREAM).text)
        assert [kind for kind, *_ in stream[:3]] == ["queued", "loading", "started"]
        assert stream[1][2] == {"model": "one"}
        assert stream[-1][0] == "succeeded"
        assert house.made(model="two")["model"] == "two"
        assert [shelf.loads.count(name) for name in ("first", "one", "two")] == [1, 2, 2]
        assert shelf.most_loading == 1


@pytest.mark.slow
def test_new_requests_get_the_new_weights_and_stored_generations_keep_theirs(tmp_path: Path) -> None:
    with running(tmp_path, registry=Shelf(FakeModel("model", revision="old")).registry) as house:
        old = house.made(n=1)
        gone = house.made(n=1)
    rolled = Shelf(FakeModel("model", revision="new"), FakeModel("model@old", revision="old", resident=False))
    with running(tmp_path, registry=rolled.registry) as house:
        assert house.made(model="model")["model"] == "model"
        assert rolled.loads == ["model"]
        assert house.client.get(f"/v1/generations/{old['id']}").json()["model"] == "model"
        assert rolled.loads == ["model"]  # reading needs no weights
        other = next(c["index"] for c in old["candidates"] if c["rank"] is None)
        assert house.client.get(f"/v1/generations/{old['id']}/images/{other}").status_code == 200
        refined = house.post(f"/v1/generations/{old['id']}/refine", json={"index": 1, "n_candidates": 2, "steps": 4})
        assert refined.json()["model"] == "model@old"
        assert rolled.models["model@old"].calls > 0
    without = Shelf(FakeModel("model", revision="new"))
    with running(tmp_path, registry=without.registry) as house:
        refined = house.post(f"/v1/generations/{gone['id']}/refine", json={"index": 1, "n_candidates": 2, "steps": 4})
        told = is_problem(refined, 404, "not_found")["detail"]
        assert "revision 'old', are not served" in told
        again = house.post(f"/v1/generations/{gone['id']}/rerank", json={"ranking": {"prompt": "a blue boat"}})
        assert again.status_code == 200  # the scorer is the same


@pytest.mark.slow
def test_a_request_for_a_model_of_another_replica_waits_for_it(tmp_path: Path) -> None:
    here, there = Shelf(FakeModel("here")), Shelf(FakeModel("there"), FakeModel("idle", resident=False))
    with running(tmp_path, registry=here.registry) as one, running(tmp_path, registry=there.registry) as other:
        assert one.made(model="there")["model"] == "there"
        assert other.made(model="here")["model"] == "here"
        assert here.models["here"].calls > 0
        assert here.loads == ["here"]
        stream = events(one.post(json={**PROMPT, "model": "there"}, headers=STREAM).text)
        assert [kind for kind, *_ in stream[:3]] == ["queued", "loading", "started"]
        assert one.queued(model="there")["model"] == "there"
        until(lambda: _serving(one, "there")["state"] == "loaded")
        told = _serving(one, "there")
        assert (told["here"], list(told["replicas"].values())) == (False, ["loaded"])
        assert is_problem(one.post(json={**PROMPT, "model": "idle"}), 503, "loading")["detail"].startswith(
            "model 'idle'"
        )
        unserved = is_problem(one.post(json={**PROMPT, "model": "none"}), 404, "not_found", "#/model")
        assert "here, idle, there" in unserved["detail"]
        made = one.made(model="there", n=1)
        again = one.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"prompt": "a blue boat"}})
        assert again.status_code == 200  # this replica has the same scorer
        refined = one.post(f"/v1/generations/{made['id']}/refine", json={"index": 0, "n_candidates": 2, "steps": 4})
        assert (refined.status_code, refined.json()["model"]) == (200, "there")
        index = next(c["index"] for c in made["candidates"] if not c["rank"])
        other_image = f"/v1/generations/{made['id']}/images/{index}"
        is_problem(one.client.get(other_image), 503, "loading")
        assert other.client.get(other_image).status_code == 200
    with running(tmp_path, registry=Shelf(FakeModel("here")).registry) as one:
        is_problem(one.post(json={**PROMPT, "model": "there"}), 404, "not_found", "#/model")


@pytest.mark.slow
def test_a_stopping_process_hands_back_the_work_of_every_model(tmp_path: Path) -> None:
    shelf, answers = Shelf(FakeModel("first"), FakeModel("other", delay_s=0.05)), list[httpx.Response]()
    with running(tmp_path, registry=shelf.registry) as house:
        server = DrainingServer(server_config(house.app, Settings(port=0)), drain_s=0)
        asked = {**PROMPT, "model": "other", "steps": 150}
        watching = threading.Thread(target=lambda: answers.append(house.post(json=asked, headers=STREAM)))
        watching.start()
        other = house.app.state.services.models.bundles["other"].generations
        until(lambda: list(other._recordings))
        loop = shelf.engines["other"]._inner._loop  # type: ignore[union-attr]
        asyncio.run_coroutine_threadsafe(server._drain(overdue=True), loop).result(10)
        watching.join(10)
        kind, _, data = events(answers[0].text)[-1]
        assert (kind, data["error"]["code"]) == ("error", "draining")
        assert house.client.get(data["location"]).json()["status"] == "queued"


@pytest.mark.slow
def test_queued_work_of_a_model_that_no_longer_loads_fails_with_the_reason(tmp_path: Path) -> None:
    models = [FakeModel("first"), *(FakeModel(name, resident=False, size=60) for name in ("one", "two"))]
    shelf = Shelf(*models, budget=100)
    with running(tmp_path, registry=shelf.registry) as house:
        for name in ("one", "two"):
            house.made(model=name)
        shelf.models["one"].problems.append(broken())
        waiting = house.queued(model="one")
        until(lambda: house.client.get(f"/v1/generations/{waiting['id']}").json()["status"] == "failed")
        failed = house.client.get(f"/v1/generations/{waiting['id']}").json()
        assert failed["error"]["code"] == "model_load_failed"
        assert "generator 'gone' not found" in failed["error"]["message"]
        is_problem(house.post(json={**PROMPT, "model": "one"}), 504, "model_load_failed")
        assert house.made(model="first")["status"] == "succeeded"


@pytest.mark.slow
def test_queued_work_loads_its_model_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, registry=Shelf(FakeModel("here")).registry) as one:
        with running(tmp_path, registry=Shelf(FakeModel("there")).registry):
            one.made(model="there")
        waiting = one.queued(model="there")
        later = Shelf(FakeModel("first"), FakeModel("there", resident=False))
        with running(tmp_path, registry=later.registry) as other:
            until(lambda: other.client.get(f"/v1/generations/{waiting['id']}").json()["status"] == "succeeded")
            assert later.loads == ["first", "there"]


def test_the_command_line_chooses_a_model(house: House, shelf: Shelf, tmp_path: Path) -> None:
    before = shelf.models["large"].calls, shelf.models["small"].calls
    asked = ["generate", "a red apple", "--candidates", "2", "--best", "1", "--steps", "4", "--model", "small"]
    found = CliRunner().invoke(app, [*asked, "--url", house.url, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert shelf.models["large"].calls == before[0]
    assert shelf.models["small"].calls > before[1]


def _file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "models.toml"
    file.write_text(text)
    return file


def test_models_of_a_file_are_loaded_and_share_their_scorer(tmp_path: Path) -> None:
    text = '[models.a]\ngenerator = "fake"\n[models.b]\ngenerator = "fake"\nload = "on-demand"\n'
    settings = Settings(models=_file(tmp_path, text), scorer="fake", data_dir=tmp_path / "data", model_aliases="")
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        until(lambda: client.get("/readyz").status_code == 200)
        for name in "ab":
            made = client.post("/v1/generations", json={**PROMPT, "model": name})
            assert (made.status_code, made.json()["model"]) == (200, name)
        registry: ModelRegistry = client.app.state.registry  # type: ignore[attr-defined]
        scorers = [_models_of(registry, name).scorer for name in "ab"]
        assert scorers[0] is scorers[1]


def _models_of(registry: ModelRegistry, name: str) -> Models:
    managed = registry.managed(name)
    assert managed is not None
    engine = managed._inner
    assert isinstance(engine, LocalEngine)
    return engine._loaded()


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('generator = "/nowhere/at/all"', "generator 'bad' not found"),
        ('generator = "pictogram"\ndevice = "cuda:63"', "cuda:63"),
    ],
)
def test_a_missing_folder_or_device_is_an_error_of_its_model(tmp_path: Path, table: str, told: str) -> None:
    pytest.importorskip("torch")
    text = f'[models.good]\ngenerator = "fake"\n[models.bad]\nload = "on-demand"\n{table}\n'
    settings = Settings(models=_file(tmp_path, text), scorer="fake", data_dir=tmp_path / "data", model_aliases="")
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        until(lambda: client.get("/readyz").status_code == 200)
        refusal = client.post("/v1/generations", json={**PROMPT, "model": "bad"})
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "model_load_failed")
        assert told in refusal.json()["detail"]
        assert client.post("/v1/generations", json={**PROMPT, "model": "good"}).status_code == 200
