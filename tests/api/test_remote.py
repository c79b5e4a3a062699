"""A service whose generator is remote: another service in OpenAI's shape, or another Frontrunner."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from app.imaging import GuardedDecoder
from models import registry
from models.load_options import LoadOptions, RemoteLimits
from models.protocols import Models
from tests.api.kit import House, events, is_problem, running, until
from tests.remotes import KEY, Asked, PlainDecoder, Remote, Reply, base64_of

pytestmark = pytest.mark.slow

REFUSED = Reply(400, {"error": {"code": "moderation_blocked", "message": "no apples"}})
COLOURS = ("red", "blue", "lime", "yellow", "white", "black", "cyan", "magenta")


def loader(name: str, **limits: Any) -> Callable[[], Models]:
    usual: dict[str, Any] = {"api_key": KEY, "decoder": PlainDecoder, "backoff_s": 0.01, "size": (64, 64)}
    return lambda: registry.load_models(name, "fake", options=LoadOptions(remote=RemoteLimits(**{**usual, **limits})))


@contextmanager
def fronted(tmp_path: Path, remote: Remote, api: str = "openai", **limits: Any) -> Iterator[House]:
    name = f"openai:{remote.url}/v1#painter" if api == "openai" else f"{api}:{remote.url}"
    with running(tmp_path, load=loader(name, **limits)) as house:
        yield house


def painted(asked: Asked, number: int) -> Any:
    return {"data": [{"b64_json": base64_of(COLOURS[(number - 1) % len(COLOURS)])}] * asked.body["n"]}


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def codes(answer: Any) -> set[str]:
    return {warning["code"] for warning in answer["warnings"]}


def test_the_best_of_a_remotes_images_is_ranked_stored_and_ranked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def answer(asked: Asked, number: int) -> Any:
        if number == 3:
            return Reply(400, {"error": {"code": "content_policy_violation", "message": f"not with {KEY}"}})
        return painted(asked, number)

    with (
        Remote(answer) as remote,
        fronted(tmp_path, remote, decoder=GuardedDecoder, concurrency=1) as house,
    ):
        got = house.post(json={"prompt": "a red apple", "n_candidates": 6, "n": 2, "negative_prompt": "blue"})
        assert got.status_code == 200, got.text
        told = got.json()
        assert (told["model"], told["status"], len(told["candidates"]), len(told["data"])) == (
            "openai:painter", "succeeded", 6, 2,
        )  # fmt: skip
        assert {"candidates_missing", "pruning_unsupported", "seeds_not_reproducible"} <= codes(told)
        scraped = house.client.get("/metrics").text
        assert 'frontrunner_remote_calls_total{outcome="answered"} 5.0' in scraped
        assert 'frontrunner_remote_calls_total{outcome="refused"} 1.0' in scraped
        assert 'frontrunner_remote_seconds_total{outcome="refused"} ' in scraped
        assert "negative_prompt_not_steering" in codes(told)
        missing = next(each for each in told["warnings"] if each["code"] == "candidates_missing")
        assert (missing["count"], missing["reasons"]) == (1, {"refused": 1})
        (lost,) = [each for each in told["candidates"] if each["failure"]]
        assert (lost["index"], lost["score"], lost["rank"]) == (missing["candidates"][0]["index"], None, None)
        assert "not with [...]" in lost["failure"]
        best = pixels(house.client.get(told["data"][0]["url"]).content)
        assert best[0, 0].tolist() == [255, 0, 0]
        assert told["work"]["rows_unpruned"] == 0
        path = f"/v1/generations/{told['id']}"
        again = house.post(f"{path}/rerank", json={"n": 5, "ranking": {"prompt": "a blue boat", "negatives": []}})
        assert again.status_code == 200, again.text
        assert len(again.json()["data"]) == 5
        other = again.json()["data"][0]["index"]
        assert other not in [each["index"] for each in told["data"]]
        assert pixels(house.client.get(f"{path}/images/{other}").content)[0, 0].tolist() == [0, 0, 255]
        is_problem(house.client.get(f"{path}/images/{lost['index']}"), 404, "not_found")
        known = house.client.get("/v1/models").text
        assert json.loads(known)["data"][0]["generator"]["whole_images"]["seeds"] is False
        for text in (got.text, again.text, known, house.client.get(f"{path}/events").text, caplog.text):
            assert KEY not in text
        for text in (got.text, known):
            assert "127.0.0.1" not in text


def test_progress_counts_what_has_come(tmp_path: Path) -> None:
    with Remote(painted) as remote, fronted(tmp_path, remote, concurrency=1) as house:
        got = house.post(
            json={"prompt": "a red apple", "n_candidates": 4, "previews": 2}, headers={"accept": "text/event-stream"}
        )
        found = events(got.text)
        shares = [data["progress"] for _, _, data in found if "progress" in data and "status" not in data]
        assert shares == sorted(shares)
        assert set(shares) & {0.25, 0.5, 0.75}, "an event says how many have come"
        assert "previews_unsupported" in got.text


@pytest.mark.parametrize(
    ("reply", "status", "code", "words"),
    [
        (REFUSED, 422, "remote_refused", "no apples"),
        (Reply(401, {"error": {"message": KEY}}), 500, "remote_failed", "FRONTRUNNER_REMOTE_API_KEY"),
        (Reply(429, headers={"retry-after": "3600"}), 500, "remote_failed", "beyond the deadline"),
        (Reply(200, b"<html>"), 500, "remote_failed", "JSON"),
    ],
)  # fmt: skip
def test_a_generation_without_an_image_fails_with_the_reason(
    reply: Reply, status: int, code: str, words: str, tmp_path: Path
) -> None:
    with Remote(lambda *_: reply) as remote, fronted(tmp_path, remote) as house:
        failed = house.post(json={"prompt": "a red apple", "n_candidates": 3})
        assert words in is_problem(failed, status, code)["detail"]
        assert KEY not in failed.text
        assert "127.0.0.1" not in failed.text
        assert house.live == 0
        remote.answer = painted
        if "retry-after" not in reply.headers:
            assert house.post(json={"prompt": "a red apple", "n_candidates": 3}).status_code == 200


def test_a_budget_that_is_used_up_says_so(tmp_path: Path) -> None:
    with Remote(painted) as remote, fronted(tmp_path, remote, calls_per_day=2) as house:
        assert "candidates_missing" in codes(house.made(n_candidates=4, steps=None))
        is_problem(house.post(json={"prompt": "x", "n_candidates": 2}), 500, "remote_budget_spent")
        assert len(remote.made) == 2


def test_what_a_remote_cannot_do_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    with Remote(painted) as remote, fronted(tmp_path, remote) as house:
        for more, pointer in (
            ({"pruning": [{"at": 1, "keep": 2}]}, "#/pruning"),
            ({"loras": [{"name": "film"}]}, "#/loras"),
            ({"steering": {"scale": 0.05}, "steps": 8}, "#/steering"),
        ):
            code = "no_steering" if "steering" in more else "invalid_request"
            is_problem(house.post(json={"prompt": "x", **more}), 422, code, pointer)
        assert remote.asked == []


def test_cancelling_ends_the_calls(tmp_path: Path) -> None:
    hold = threading.Event()

    def answer(asked: Asked, number: int) -> Any:
        hold.wait(20)
        return painted(asked, number)

    with Remote(answer) as remote, fronted(tmp_path, remote, concurrency=2) as house:
        queued = house.queued(n_candidates=6, steps=None)
        until(lambda: remote.open == 2)
        ended = house.client.delete(f"/v1/generations/{queued['id']}")
        assert ended.status_code < 300
        until(lambda: house.live == 0)
        hold.set()
        remote.answer = painted
        assert house.made(n_candidates=1, steps=None)["status"] == "succeeded"
        assert len(remote.made) == 3, "the other four were never asked for"


def test_waves_end_when_they_gain_little(tmp_path: Path) -> None:
    with (
        Remote(lambda asked, _: {"data": [{"b64_json": base64_of("red")}]}) as remote,
        fronted(tmp_path, remote) as house,
    ):
        told = house.made(n_candidates="auto", max_candidates=32, steps=None)
        assert (told["stopped"], len(told["candidates"])) == ("gain", len(remote.made))
        remote.answer = lambda *_: Reply(400, {"error": {"message": "no"}})
        is_problem(house.post(json={"prompt": "x", "n_candidates": "auto"}), 422, "remote_refused")
        assert len(remote.made) == len(told["candidates"]) + 8


@pytest.mark.torch
def test_the_embedded_scorer_ranks_a_remotes_images_and_prunes_nothing(tmp_path: Path) -> None:
    """Its calibration belongs to another generator, so it is not used."""
    with Remote(painted) as remote:
        limits = RemoteLimits(api_key=KEY, decoder=PlainDecoder, backoff_s=0.01, size=(64, 64), concurrency=1)

        def load() -> Models:
            name = f"openai:{remote.url}/v1#painter"
            return registry.load_models(name, "pictogram", "cpu", options=LoadOptions(remote=limits))

        with running(tmp_path, load=load) as house:
            got = house.post(json={"prompt": "a red square", "n_candidates": 8, "n": 8, "pruning": "auto"})
            assert got.status_code == 200, got.text
            told = got.json()
            ranking = {"prompt": "a blue circle", "negatives": []}
            again = house.post(f"/v1/generations/{told['id']}/rerank", json={"n": 8, "ranking": ranking})
            assert again.status_code == 200, again.text
            known = house.client.get("/v1/models").json()["data"]
    assert "pruning_unsupported" in codes(told)
    assert "pictogram" in [model["id"] for model in known]
    firsts = []
    for answer in (told, again.json()):
        scores = [each["score"] for each in answer["data"]]
        assert len(scores) == len(set(scores)) == 8
        assert scores == sorted(scores, reverse=True)
        firsts.append(scores)
    assert firsts[0] != firsts[1]


def test_another_frontrunner_makes_the_same_images(tmp_path: Path, house: House) -> None:
    with running(tmp_path, load=loader(f"frontrunner:{house.url}", size=None, images_per_call=3)) as front:
        asked = {"prompt": "a red apple", "negative_prompt": "blue", "n_candidates": 5, "n": 5, "seed": 11, "steps": 6}
        far, near = (it.made(**asked, pruning="off") for it in (front, house))
        assert far["model"] == "frontrunner:fake"
        assert codes(far) <= {"score_steered", "low_confidence"} | codes(near)
        assert [(each["index"], each["seed"]) for each in far["data"]] == [
            (each["index"], each["seed"]) for each in near["data"]
        ]
        for one, other in zip(far["data"], near["data"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
            np.testing.assert_array_equal(
                pixels(front.client.get(one["url"]).content), pixels(house.client.get(other["url"]).content)
            )
        listed = front.client.get("/v1/models").json()["data"][0]["generator"]
        assert (listed["steps"], listed["samplers"][0], listed["device"]) == (8, "euler", "remote")
        assert house.url not in front.client.get("/v1/models").text


def test_openais_client_is_served_from_a_remote(tmp_path: Path) -> None:
    with Remote(painted) as remote, fronted(tmp_path, remote) as house:
        client = openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0)
        found = client.images.generate(prompt="a red apple", n=2, size="512x512", extra_body={"n_candidates": 4})
        assert found.data is not None
        assert len(found.data) == 2
        remote.answer = lambda *_: Reply(400, {"error": {"code": "content_policy_violation", "message": "no apples"}})
        with pytest.raises(openai.UnprocessableEntityError, match="no apples"):
            client.images.generate(prompt="a red apple")
