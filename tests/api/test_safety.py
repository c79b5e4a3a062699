"""Safety over HTTP: flags, vetoes, and every door by which an image may leave."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.types import CallToolResult
from PIL import Image

import app.main
from app.cli.client import CliError
from app.cli.serve import run_server
from models.errors import ModelNotFound
from models.guards.safety.synthetic import FakeClassifier
from models.protocols.safety import SafetyInfo
from tests.api.kit import House, events, is_problem, running, until
from tests.api.test_mcp import _call, _with
from tests.api.test_webhooks import listening
from tests.safety import shown
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

LIMIT = 0.615
NEAR = 0.004
"""Rounding of lossy previews."""

RED: dict[str, Any] = {"prompt": "a red apple", "n_candidates": 8, "steps": 4, "pruning": "off"}
HOOKS: dict[str, Any] = {"webhook_secret": "whsec_" + base64.b64encode(bytes(24)).decode(), "webhook_private": True}
FAKE: dict[str, Any] = {"safety_classifier": "fake", "safety_threshold": LIMIT}


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("open"), **FAKE, **HOOKS) as it:
        yield it


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("strict"), **FAKE, **HOOKS, safety="veto") as it:
        yield it


def flagged(made: dict[str, Any]) -> set[int]:
    return {c["index"] for c in made["candidates"] if c["safety"] is not None and c["safety"]["flagged"]}


def picture(house: House, made: dict[str, Any], index: int, **query: str) -> httpx.Response:
    return house.client.get(f"/v1/generations/{made['id']}/images/{index}", params=query)


def test_flags_are_told_and_change_nothing(open_house: House) -> None:
    plain, made = (open_house.made(**RED, n=8, seed=7, safety=mode) for mode in ("off", "flag"))
    assert plain["safety"] == "off"
    assert {c["safety"] for c in plain["candidates"]} == {None}
    assert [image["index"] for image in made["data"]] == [image["index"] for image in plain["data"]]
    for image in made["data"]:
        file = picture(open_house, made, image["index"])
        score = shown(file)[0]
        told = {"flagged": score > LIMIT, "scores": {"red": pytest.approx(score)}, "model": "fake", "revision": "1"}
        assert image["safety"] == told
    warning = next(w for w in made["warnings"] if w["code"] == "candidates_flagged")
    assert set(warning["indices"]) == flagged(made)
    assert 0 < len(flagged(made)) < 8
    told = open_house.client.get("/v1/models").json()["safety"]
    assert told == {"default": "off", "classifier": "fake", "revision": "1", "threshold": LIMIT}


def test_a_veto_returns_the_next_best(open_house: House) -> None:
    free = open_house.made(**RED, n=8, seed=7, safety="flag")
    allowed = [image["index"] for image in free["data"] if not image["safety"]["flagged"]]
    two = open_house.made(**RED, n=2, seed=7, safety="veto")
    assert [image["index"] for image in two["data"]] == allowed[:2]
    assert [image["rank"] for image in two["data"]] == [1, 2]
    assert sum(image["softmax"] for image in open_house.made(**RED, n=8, seed=7, safety="veto")["data"]) <= 1.0001
    everything = open_house.made(**RED, n=8, seed=7, safety="veto")
    assert [image["index"] for image in everything["data"]] == allowed
    assert "fewer_after_safety" in {w["code"] for w in everything["warnings"]}
    for index in range(8):
        answer = picture(open_house, everything, index)
        if index in flagged(free):
            is_problem(answer, 403, "image_withheld")
        else:
            assert shown(answer)[0] <= LIMIT


def test_pruning_leaves_spare_finalists(open_house: House) -> None:
    asked = {**RED, "pruning": [{"at": 2, "keep": 3}], "seed": 7, "n": 1}
    made = open_house.made(**asked, safety="veto")
    done = {c["index"] for c in made["candidates"] if c["pruned_at_step"] is None}
    assert made["data"][0]["index"] in done - flagged(made)
    free = open_house.made(**asked, safety="off")
    pruned = [c["index"] for c in made["candidates"] if c["pruned_at_step"] and c["safety"] is None]
    withheld = {index for index in pruned if shown(picture(open_house, free, index))[0] > LIMIT}
    assert withheld
    for index in pruned:
        assert picture(open_house, made, index).status_code == (403 if index in withheld else 200)


def test_all_flagged_is_an_error_on_every_route(strict: House) -> None:
    body = {**RED, "prompt": "red", "n_candidates": 2, "seed": 3}
    is_problem(strict.post(json=body), 422, "all_flagged")
    is_problem(strict.post(json=body, headers={"accept": "image/png"}), 422, "all_flagged")
    queued = strict.queued(**body)
    path = f"/v1/generations/{queued['id']}"
    until(lambda: strict.client.get(path).json()["status"] == "failed")
    ended = strict.client.get(path).json()
    assert ended["error"]["code"] == "all_flagged"
    assert (ended["data"], flagged(ended)) == ([], {0, 1})
    is_problem(picture(strict, ended, 0), 409, "not_ready")
    openai = strict.post("/v1/images/generations", json={**body, "n": 1})
    assert (openai.status_code, openai.json()["error"]["code"]) == (422, "all_flagged")
    webui = strict.post("/sdapi/v1/txt2img", json={"prompt": "red", "steps": 4, "seed": 3, "frontrunner_candidates": 2})
    assert webui.status_code == 422


@pytest.mark.parametrize("mode", ["off", "flag"])
def test_a_request_cannot_weaken_the_servers_veto(strict: House, mode: str) -> None:
    is_problem(strict.post(json={**RED, "safety": mode}), 422, "safety_required", "#/safety")
    answer = strict.post("/v1/images/generations", json={"prompt": "red", "safety": mode})
    assert answer.json()["error"]["code"] == "safety_required"
    batch = strict.post("/v1/batches", json={"requests": [{**RED, "safety": mode}]})
    is_problem(batch, 422, "invalid_request", "#/requests/0/safety")
    made = strict.made(**RED, seed=7)
    refined = {"index": made["data"][0]["index"], "safety": mode}
    is_problem(strict.post(f"/v1/generations/{made['id']}/refine", json=refined), 422, "safety_required", "#/safety")


def doors(house: House, seed: int, count: int, n: int) -> Iterator[httpx.Response]:
    """Answers of every route that may hold or lead to images of one race."""
    asked = {**RED, "seed": seed, "n_candidates": count, "n": n}
    path = "/v1/generations"
    yield house.post(json={**asked, "response_format": "b64_json"})
    yield house.post(json=asked, headers={"accept": "image/webp"})
    stream = {**asked, "previews": 2, "response_format": "b64_json"}
    streamed = house.post(json=stream, headers={"accept": "text/event-stream"})
    yield streamed
    made = house.queued(**asked, previews=2)
    until(lambda: house.client.get(f"{path}/{made['id']}").json()["finished"])
    yield house.client.get(f"{path}/{made['id']}/events")
    stored = house.post(f"{path}/{made['id']}/rerank", json={"n": count, "ranking": {"prompt": "red"}, "store": True})
    yield stored
    copy = stored.json() if stored.status_code == 201 else made
    for index in range(count):
        for owner in (made, copy):
            for name in (f"{index}", f"{index}.webp", f"{index}.jpeg"):
                yield house.client.get(f"{path}/{owner['id']}/images/{name}")
            yield picture(house, owner, index, size="32x32")
            yield picture(house, owner, index, size="128x128")
        heat = house.client.get(f"{path}/{made['id']}/candidates/{index}/heat", params={"text": "red"})
        assert heat.status_code in {200, 403, 409}
        assert heat.status_code != 200 or picture(house, made, index).status_code == 200
        again = {"index": index, "strength": 0.1, "n_candidates": 2, "n": 2, "response_format": "b64_json"}
        yield house.post(f"{path}/{made['id']}/refine", json=again)
        yield house.post(f"{path}/{made['id']}/refine", json={**again, "mask": white(64)})
    yield house.post("/v1/images/generations", json={**asked, "response_format": "b64_json"})
    yield house.post("/v1/images/generations", json={**asked, "stream": True, "partial_images": 2})
    linked = house.post("/v1/images/generations", json=asked).json()
    for image in linked.get("data", ()):
        yield house.client.get(image["url"])
    web = {"prompt": RED["prompt"], "steps": 4, "seed": seed, "frontrunner_candidates": count, "batch_size": n}
    yield house.post("/sdapi/v1/txt2img", json=web)
    yield house.client.get("/sdapi/v1/progress")
    yield house.post("/sdapi/v1/img2img", json={**web, "init_images": [white(64)], "denoising_strength": 1.0})
    yield from forms(house, asked)
    yield from tools(house, asked, made["id"])
    batch = house.post("/v1/batches", json={"requests": [asked]}).json()
    until(lambda: house.client.get(f"/v1/batches/{batch['id']}").json()["finished"])
    for index in range(count):
        yield house.client.get(f"{path}/{batch['entries'][0]['id']}/images/{index}")
    with listening() as receiver:
        house.post(json={**asked, "webhook": {"url": receiver.url}})
        until(lambda: receiver.got)
        yield httpx.Response(200, content=receiver.got[0][1], headers={"content-type": "application/json"})
        for image in json.loads(receiver.got[0][1])["data"]["data"]:
            yield house.client.get(image["url"])


def forms(house: House, asked: dict[str, Any]) -> Iterator[httpx.Response]:
    """Edits and variations of OpenAI's API, whose images stay near those that were sent or not."""
    picture = ("white.png", base64.b64decode(white(64).partition(",")[2]), "image/png")
    fields = {"prompt": asked["prompt"], "n": str(asked["n"]), "seed": str(asked["seed"]), "strength": "1"}
    count = {"n_candidates": str(asked["n_candidates"]), "steps": "4", "response_format": "b64_json"}
    yield house.post("/v1/images/edits", files={"image": picture}, data={**fields, **count})
    yield house.post("/v1/images/variations", files={"image": picture}, data={**fields, **count})


def tools(house: House, asked: dict[str, Any], made: str) -> Iterator[httpx.Response]:
    """Images in results of MCP's tools."""
    sampled = {key: asked[key] for key in ("prompt", "seed", "n_candidates", "n", "steps")}
    again = {"generation": made, "n_candidates": 2, "n": 2, "strength": 0.5}
    calls: list[tuple[str, dict[str, Any]]] = [("generate", {**sampled, "inline": True})]
    calls += [("rerank", {"generation": made, "prompt": "red", "n": asked["n_candidates"], "inline": True})]
    for index in range(asked["n_candidates"]):
        calls += [("get_image", {"generation": made, "index": index})]
        calls += [("refine", {**again, "index": index, "inline": True})]

    async def ask(client: Client) -> list[CallToolResult]:
        return [await client.call_tool(name, arguments) for name, arguments in calls]

    for told in _with(house, ask):
        yield httpx.Response(200, json=[block.data for block in told.content if block.type == "image"])


def white(side: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 255, np.uint8)[:, : side // 2 * 2]).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@settings(max_examples=1, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(seed=7, count=5, n=3)
@given(seed=st.integers(0, 1000), count=st.integers(3, 6), n=st.integers(1, 3))
def test_no_flagged_image_leaves_by_any_door(strict: House, seed: int, count: int, n: int) -> None:
    seen = [score for answer in doors(strict, seed, count, n) for score in shown(answer)]
    assert max(seen, default=0.0) <= LIMIT + NEAR
    assert len(seen) > 20 or seed != 7


def test_the_doors_show_flagged_images_without_a_veto(open_house: House) -> None:
    """What the property above would see if a door were open."""
    seen = [score for answer in doors(open_house, 7, 5, 3) for score in shown(answer)]
    assert max(seen) > LIMIT + NEAR
    asked = {**RED, "prompt": "red", "seed": 3, "n_candidates": 5, "n": 5}
    made = open_house.made(**asked)["id"]
    for group in (forms(open_house, asked), tools(open_house, asked, made)):
        assert max(score for answer in group for score in shown(answer)) > LIMIT + NEAR


def test_tools_of_mcp_withhold_flagged_images(strict: House) -> None:
    made = strict.made(**RED, seed=7)
    for index in range(8):
        told = _call(strict, "get_image", generation=made["id"], index=index)
        assert bool(told.is_error) is (index in flagged(made))
        assert all(b.type != "image" for b in told.content) is bool(told.is_error)


def test_what_was_made_before_the_veto_is_checked_when_it_is_served(tmp_path: Path) -> None:
    with running(tmp_path, **FAKE) as before:
        asked = {**RED, "seed": 7, "n": 8, "previews": 2}
        made = before.post(json=asked, headers={"prefer": "respond-async, wait=60"}).json()
        free = {i: shown(picture(before, made, i))[0] > LIMIT for i in range(8)}
        assert shown(before.client.get(f"/v1/generations/{made['id']}/events"))
    with running(tmp_path, **FAKE, safety="veto") as after:
        for index, is_flagged in free.items():
            assert picture(after, made, index).status_code == (403 if is_flagged else 200)
        again = after.post(f"/v1/generations/{made['id']}/rerank", json={"n": 8}).json()
        assert {image["index"] for image in again["data"]} == {
            index for index, is_flagged in free.items() if not is_flagged
        }
        assert shown(after.client.get(f"/v1/generations/{made['id']}/events")) == []


class Odd(FakeClassifier):
    """Returns no number for the first image, and fails from the second call on."""

    calls = 0

    @property
    def info(self) -> SafetyInfo:
        return SafetyInfo("odd", "1", 2.0)

    def classify(self, images: Any) -> Any:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("the classifier is broken")
        return [{"red": float("nan")}, *super().classify(images)[1:]]


def test_a_classifier_without_an_answer_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Odd()
    monkeypatch.setattr(app.main, "load_classifier", lambda *_: odd)
    with running(tmp_path, **FAKE, buckets=(8,)) as house:
        made = house.made(**RED, n=8, seed=7, safety="veto")
        assert flagged(made) == {0}
        assert made["candidates"][0]["safety"]["scores"] == {"red": None}
        codes = {w["code"]: w.get("indices") for w in made["warnings"]}
        assert codes["safety_not_a_number"] == [0]
        told = house.made(**RED, n=8, seed=7, safety="flag")
        assert flagged(told) == set(range(8))
        assert told["data"][0]["safety"]["scores"] == {}
        assert "safety_failed" in {w["code"] for w in told["warnings"]}
        is_problem(house.post(json={**RED, "safety": "veto"}), 422, "all_flagged")


def test_without_a_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing: dict[str, Any] = {"safety_classifier": "no-such"}
    for mode in ("flag", "veto"):
        with pytest.raises(ModelNotFound, match="'no-such' is unknown"), running(tmp_path, safety=mode, **missing):
            pass
    with pytest.raises(CliError, match="no-such"):
        run_server({"data_dir": tmp_path / "data", "port": 0, "safety": "veto", **missing})
    monkeypatch.setattr("models.guards.safety.is_installed", lambda: False)
    with pytest.raises(ModelNotFound, match=r"frontrunner\[safety\]"), running(tmp_path, safety="veto"):
        pass
    with running(tmp_path, safety="veto", safety_optional=True, **missing) as house:
        assert house.made(**RED)["safety"] == "off"
        is_problem(house.post(json={**RED, "safety": "veto"}), 422, "safety_unavailable", "#/safety")
        assert house.client.get("/v1/models").json()["safety"]["classifier"] is None


def test_words_of_the_list_are_told_or_refused(open_house: House) -> None:
    asked = {**RED, "prompt": "a Naked apple", "negative_prompt": "nsfw"}
    assert "prompt_on_word_list" not in {w["code"] for w in open_house.made(**asked)["warnings"]}
    told = open_house.made(**asked, safety="flag")["warnings"]
    assert next(w for w in told if w["code"] == "prompt_on_word_list")["words"] == ["naked"]
    is_problem(open_house.post(json={**asked, "safety": "veto"}), 422, "prompt_on_word_list", "#/prompt")
    variants = {**RED, "variants": ["a red apple", "a nude apple"], "safety": "veto"}
    is_problem(open_house.post(json=variants), 422, "prompt_on_word_list", "#/prompt")


def test_refinements_and_rerankings_keep_the_mode(open_house: House) -> None:
    made = open_house.made(**RED, n=2, seed=7, safety="veto")
    path = f"/v1/generations/{made['id']}"
    again = open_house.post(f"{path}/rerank", json={"n": 8}).json()
    assert again["safety"] == "veto"
    assert not flagged(made) & {image["index"] for image in again["data"]}
    asked = {"index": made["data"][0]["index"], "n_candidates": 8, "strength": 0.9, "seed": 7}
    refined = open_house.post(f"{path}/refine", json=asked).json()
    assert (refined["safety"], flagged(refined) & {image["index"] for image in refined["data"]}) == ("veto", set())
    refused = open_house.post(f"{path}/refine", json={"index": min(flagged(made))})
    is_problem(refused, 403, "image_withheld")


def test_previews_of_a_web_ui_are_withheld(tmp_path: Path) -> None:
    everything = {**FAKE, "safety_threshold": 0.0}
    with running(tmp_path, InstrumentedGenerator(delay_s=0.03), **everything, safety="veto") as house:
        body = {"prompt": "red", "steps": 30, "seed": 7, "frontrunner_candidates": 3, "frontrunner_previews": 4}
        found: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: found.append(house.post("/sdapi/v1/txt2img", json=body)))
        thread.start()
        images = set()
        while thread.is_alive():
            images.add(house.client.get("/sdapi/v1/progress").json()["current_image"])
        thread.join()
        assert images == {None}
        assert found[0].status_code == 422
        (ended,) = house.client.get("/v1/generations").json()["data"]
        log = events(house.client.get(f"/v1/generations/{ended['id']}/events").text)
        previews = [data for kind, _, data in log if kind == "preview"]
        assert previews
        assert {(data["image"], data["flagged"]) for data in previews} == {(None, True)}
