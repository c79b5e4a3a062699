"""Clients that leave, models that load or die, queues that are full, servers that stop: nobody waits for nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest

from app.service.generations import service
from models.protocols import Conditioning, GeneratorInfo
from tests.api.kit import PROMPT, House, events, is_problem, running, until
from tests.servers import PATIENCE_S
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

WEEK_S = 7 * 86_400 + 60
LONG = {**PROMPT, "n_candidates": 16, "steps": 150}
OURS, THEIRS = "/v1/generations", "/v1/images/generations"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A service of its own for each test, whose denoiser takes 50 ms a call once it is ready."""
    with running(tmp_path, stream_grace_s=0.5) as it:
        it.generator.delay_s = 0.05
        yield it


@pytest.mark.parametrize("path", [OURS, THEIRS])
@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/event-stream"])
def test_who_leaves_frees_the_device(house: House, path: str, accept: str) -> None:
    ours = path == OURS
    body = json.dumps(LONG if ours else {**LONG, "stream": accept == "text/event-stream"})
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\naccept: {accept}\r\n"
    with socket.create_connection(house.address) as raw:
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        until(lambda: house.live == 16)
    until(lambda: house.live == 0)
    until(lambda: _outcome(house, "cancelled") == 1)
    assert _rows(house) < 16 * 150


def test_a_posted_stream_that_breaks_is_resumed(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        house.generator.delay_s = 0.02
        with house.client.stream("POST", OURS, json=LONG, headers={"accept": "text/event-stream"}) as answer:
            path = answer.headers["location"]
            seen = next(chunk for chunk in answer.iter_lines() if chunk.startswith("id: "))
        house.generator.delay_s = 0.0
        last = seen.removeprefix("id: ")
        told = events(house.client.get(f"{path}/events", headers={"last-event-id": last}).text)
        assert told[0][1] == int(last) + 1
        assert told[-1][0] == "succeeded"
        with house.client.stream("POST", OURS, json=LONG, headers={"accept": "text/event-stream"}) as answer:
            path = answer.headers["location"]
        assert house.client.delete(path).status_code == 204, "a client that means it says so"
        until(lambda: house.live == 0)


def test_async_ones_outlive_their_client(house: House) -> None:
    with httpx.Client(base_url=house.url, timeout=PATIENCE_S) as client:
        queued = client.post("/v1/generations", json=PROMPT, headers={"prefer": "respond-async"}).json()
    where = f"/v1/generations/{queued['id']}"
    with httpx.stream("GET", f"{house.url}{where}/events", timeout=PATIENCE_S) as answer:
        next(answer.iter_bytes())
    until(lambda: house.client.get(where).json()["status"] == "succeeded")


def test_deleting_ends_every_waiter(house: House) -> None:
    answers: list[httpx.Response] = []
    running = house.app.state.services.generations._recordings
    for accept in ("application/json", "text/event-stream"):
        ask = partial(house.post, json=LONG, headers={"accept": accept})
        waiting = threading.Thread(target=lambda ask=ask: answers.append(ask()))
        waiting.start()
        until(
            lambda: (
                house.live == 16 and len([held.id for held in house.app.state.services.generations._recordings]) == 1
            )
        )
        (generation_id,) = [held.id for held in running]
        assert house.client.delete(f"/v1/generations/{generation_id}").status_code == 204
        waiting.join(10)
        assert house.live == 0
    plain, stream = answers
    assert is_problem(plain, plain.status_code, plain.json()["error"]["code"])["status"] in {404, 409}
    assert events(stream.text)[-1][0] in {"cancelled", "error"}


class Late(InstrumentedGenerator):
    """Comes when it is let in."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    @property
    def info(self) -> GeneratorInfo:
        self.gate.wait(10)
        return super().info


def test_loading_answers_but_is_not_ready(tmp_path: Path) -> None:
    generator = Late()
    with running(tmp_path, generator, wait=False) as house:
        for answer in (house.client.get("/readyz"), house.post(json=PROMPT), house.client.get("/v1/models")):
            is_problem(answer, 503, "loading")
            assert 1 <= int(answer.headers["retry-after"]) <= 120
            assert answer.json()["detail"] == "the models are not ready yet: loading the models"
        assert house.client.get("/healthz").status_code == 200
        assert "frontrunner_ready 0.0" in house.client.get("/metrics").text
        generator.gate.set()
        until(lambda: house.client.get("/readyz").status_code == 200)


def test_a_full_queue_refuses_and_says_when_to_come_back(tmp_path: Path) -> None:
    with running(tmp_path, max_candidates=16, max_queued_candidates=20) as house:
        house.generator.delay_s = 0.1
        first = house.queued(n_candidates=16, steps=150)
        for accept in ("application/json", "text/event-stream", "image/png"):
            answer = house.post(json={**PROMPT, "n_candidates": 8}, headers={"accept": accept})
            is_problem(answer, 503, "queue_full")
            assert 1 <= int(answer.headers["retry-after"]) <= 120
            assert "x-should-retry" not in answer.headers
        second = house.queued(n_candidates=4, steps=150)
        assert second["queue_position"] == 16
        is_problem(house.client.get("/readyz"), 503, "queue_full")
        for body in (first, second):
            house.client.delete(f"/v1/generations/{body['id']}")
        until(lambda: house.client.get("/readyz").status_code == 200)


def test_a_failing_device_call_is_a_500_that_need_not_be_retried(house: House) -> None:
    generator = house.generator
    generator.fail_on_call = len(generator.calls)
    answer = house.post(json=PROMPT)
    is_problem(answer, 500, "engine_failed")
    assert answer.headers["x-should-retry"] == "false"
    generator.fail_on_call = len(generator.calls)
    told = events(house.post(json=PROMPT, headers={"accept": "text/event-stream"}).text)
    assert (told[-1][0], told[-1][2]["error"]["code"]) == ("failed", "engine_failed")
    assert house.client.get(f"/v1/generations/{told[-1][2]['id']}").json() == told[-1][2]
    assert house.made()["status"] == "succeeded"
    assert _outcome(house, "failed") == 2


class Mortal(InstrumentedGenerator):
    """Takes its thread along once `dying` is set."""

    dying = False

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        if self.dying:
            raise SystemExit("the device fell off the bus")
        return super().encode(texts, negative=negative)


def test_a_dead_engine_fails_every_waiter_and_readiness(tmp_path: Path) -> None:
    generator = Mortal()
    with running(tmp_path, generator) as house:
        generator.delay_s = 0.02
        answers: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(house.post(json=LONG)))
        waiting.start()
        until(lambda: bool(generator.calls))  # its texts are encoded
        generator.dying = True
        is_problem(house.post(json={**PROMPT, "prompt": "another"}), 504, "engine_dead")
        waiting.join(10)
        is_problem(answers[0], 504, "engine_dead")
        is_problem(house.client.get("/readyz"), 503, "engine_dead")
        is_problem(house.post(json=PROMPT), 503, "engine_dead")
        assert house.client.get("/healthz").status_code == 200


def test_draining_refuses_new_work_and_finishes_old(house: House) -> None:
    queued = house.queued(steps=10)
    house.app.state.engine.drain()
    is_problem(house.client.get("/readyz"), 503, "draining")
    is_problem(house.post(json=PROMPT), 503, "draining")
    told = events(house.client.get(f"/v1/generations/{queued['id']}/events").text)
    assert told[-1][0] == "succeeded"


def test_who_waits_at_a_replica_that_stops_is_told_where_it_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HANDOVER_WAIT_S", 0.2)
    answers: dict[tuple[str, str], httpx.Response] = {}

    def ask(path: str, accept: str) -> None:
        stream = {"stream": accept == "text/event-stream"} if path != OURS else {}
        answers[path, accept] = house.post(path, json={**LONG, **stream}, headers={"accept": accept})

    asked = [(OURS, "application/json"), (OURS, "image/png"), (OURS, "text/event-stream"), (THEIRS, "application/json")]
    asked.append((THEIRS, "text/event-stream"))
    waiting = [threading.Thread(target=ask, args=one) for one in asked]
    for thread in waiting:
        thread.start()
    until(lambda: len(list(house.app.state.services.generations._recordings)) == len(asked))
    house.app.state.engine.drain()
    handing = house.app.state.services.generations.release_claims()
    asyncio.run_coroutine_threadsafe(handing, house.app.state.engine._loop).result(10)
    for thread in waiting:
        thread.join(10)
    places = set()
    for (_, accept), answer in answers.items():
        if accept == "text/event-stream":
            kind, _, data = events(answer.text)[-1]
            assert (kind, data["error"]["code"]) == ("error", "draining")
            places.add(data["location"])
            continue
        is_problem(answer, 504, "draining")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert answer.headers["x-should-retry"] == "false"
        places.add(answer.headers["location"])
    assert {house.client.get(place).json()["status"] for place in places} == {"queued"}
    assert len(places) == len(asked)


def test_results_survive_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        before = house.made(n=2)
        picture = house.client.get(before["data"][0]["url"]).content
    with running(tmp_path) as house:
        assert house.client.get(f"/v1/generations/{before['id']}").json() == before
        assert house.client.get(before["data"][0]["url"]).content == picture
        assert house.client.get(f"/v1/generations/{before['id']}/images/2").status_code == 200
        assert events(house.client.get(f"/v1/generations/{before['id']}/events").text)[-1][2] == before


def test_files_that_are_gone_are_told_as_missing(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        kept = house.made(n_candidates=3)
        shutil.rmtree(tmp_path / "data" / "blobs")
        path = f"/v1/generations/{kept['id']}"
        is_problem(house.client.get(kept["data"][0]["url"]), 404, "not_found")
        is_problem(house.client.get(f"{path}/images/2"), 404, "not_found")
        is_problem(house.post(f"{path}/rerank", json={"ranking": {"prompt": "a dog"}}), 404, "not_found")
        assert house.client.get(path).status_code == 200


def test_an_unforeseen_error_names_its_request(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.GenerationService, "get", lambda *_: 1 / 0)
    answer = house.client.get(
        "/v1/generations/gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH", headers={"x-request-id": "lost-and-found"}
    )
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "lost-and-found")


def test_old_results_are_swept(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        old = house.made()
    with closing(sqlite3.connect(tmp_path / "data" / "frontrunner.db")) as database, database:
        database.execute(
            "UPDATE generations SET created = created - :week, finished = finished - :week", {"week": WEEK_S}
        )
    with running(tmp_path) as house:
        until(lambda: house.client.get(f"/v1/generations/{old['id']}").status_code == 404)
        until(lambda: list((tmp_path / "data" / "blobs").rglob("*.png")) == [])
        path, new = f"/v1/generations/{old['id']}", f"/v1/generations/{house.made()['id']}"
        reference = {"ranking": {"references": [{"generation": old["id"], "index": 0}]}}
        for where, body in (
            (f"{path}/rerank", {}),
            (f"{path}/refine", {"index": 0}),
            (f"{new}/rerank", reference),
            ("/v1/taste/late/votes", {"generation": old["id"], "liked": [0]}),
        ):
            is_problem(house.post(where, json=body), 404, "not_found")


def _rows(house: House) -> int:
    return int(house.app.state.engine.stats().rows_stepped)


def _outcome(house: House, name: str) -> float:
    line = f'frontrunner_generations_total{{outcome="{name}"}} '
    text = house.client.get("/metrics").text
    return sum(float(found.removeprefix(line)) for found in text.splitlines() if found.startswith(line))


def test_more_than_may_ever_be_asked_for_is_no_full_queue(tmp_path: Path) -> None:
    with running(tmp_path, max_candidates=16, max_queued_candidates=20) as house:
        is_problem(house.post(json={**PROMPT, "n_candidates": 21}), 422, "invalid_request", "#/n_candidates")
