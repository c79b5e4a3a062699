"""Retries of OpenAI's clients continue their first request: nothing is sampled or paid twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from app.service import auth
from tests.api.keys_kit import add_key
from tests.api.kit import House, hang_up, held, running, until
from tests.hostile import png
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

ASKED = {"prompt": "a red apple", "n_candidates": 4, "steps": 4}
ROUTE = "/v1/images/generations"


def _sent(attempt: int | None, **more: Any) -> dict[str, Any]:
    headers = {} if attempt is None else {"x-stainless-retry-count": str(attempt)}
    return {"json": {**ASKED, **more}, "headers": headers}


def _id(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def _all(house: House, **headers: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = house.client.get("/v1/generations", headers=headers).json()["data"]
    return found


def test_a_client_with_a_timeout_and_retries_samples_and_pays_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path) as house:
        _, bearer = add_key(tmp_path / "data", quota=100)
        client = OpenAI(
            base_url=f"{house.url}/v1",
            api_key=bearer["authorization"].removeprefix("Bearer "),
            timeout=1.0,
            max_retries=8,
            http_client=httpx.Client(event_hooks={"request": [lambda request: seen.append(request)]}),
        )
        seen: list[httpx.Request] = []

        def once_retried(go_on: Callable[[], None]) -> None:
            until(lambda: len(seen) >= 3)
            go_on()

        with client, held(house) as go_on:
            threading.Thread(target=once_retried, args=(go_on,)).start()
            made = client.images.generate(prompt="a red apple", extra_body={"n_candidates": 4, "steps": 4})
        assert len(seen) >= 3
        assert made.data
        (only,) = _all(house, **bearer)
        assert (only["id"], only["status"]) == (made.id, "succeeded")
        rest = house.post(json={"prompt": "x", "n_candidates": 1, "steps": 1}, headers=bearer)
        assert rest.headers["ratelimit"].startswith('"candidates";r=95;t=')


def test_what_its_client_gives_up_is_cancelled_after_the_grace_period(tmp_path: Path) -> None:
    with running(tmp_path, stream_grace_s=0.3) as house, held(house) as go_on:
        hang_up(house, ROUTE, ASKED, lambda: house.live > 0, **{"x-stainless-retry-count": "0"})
        until(lambda: [one["status"] for one in _all(house)] == ["cancelled"])
        go_on()


def test_a_client_that_waits_longer_than_the_grace_period_gets_its_images(tmp_path: Path) -> None:
    generator = InstrumentedGenerator(delay_s=0.02)
    with running(tmp_path, generator, stream_grace_s=0.2) as house:
        answer = house.post(ROUTE, **_sent(0, n_candidates=2, steps=50))
        assert _id(answer)
        assert len(generator.calls) >= 50


def test_a_retry_gets_what_was_made_meanwhile_and_a_new_request_does_not(house: House) -> None:
    first = _id(house.post(ROUTE, **_sent(0)))
    calls = len(house.generator.calls)
    assert _id(house.post(ROUTE, **_sent(1))) == first
    assert len(house.generator.calls) == calls, "nothing was sampled"
    second = _id(house.post(ROUTE, **_sent(0)))
    assert second != first
    assert _id(house.post(ROUTE, **_sent(2))) == second
    for different in (_sent(1, prompt="a pear"), _sent(None), _sent(None)):
        assert _id(house.post(ROUTE, **different)) not in {first, second}
    assert _id(house.post(ROUTE, **_sent(1))) == second, "requests without a number change nothing"
    form = {"data": {"n_candidates": "2", "steps": "4"}, "files": {"image": ("a.png", png(), "image/png")}}
    ids = [_id(house.post("/v1/images/variations", headers=_sent(attempt)["headers"], **form)) for attempt in (0, 1)]
    assert ids[0] == ids[1]


def test_a_retry_of_what_failed_starts_again(house: House) -> None:
    house.generator.fail_on_call = len(house.generator.calls)
    assert house.post(ROUTE, **_sent(0, prompt="a plum")).status_code == 500
    made = _id(house.post(ROUTE, **_sent(1, prompt="a plum")))
    assert _id(house.post(ROUTE, **_sent(2, prompt="a plum"))) == made


def test_a_retry_reaches_its_request_on_another_replica(tmp_path: Path) -> None:
    with running(tmp_path) as one, running(tmp_path) as two, held(one, two) as go_on:
        calls = len(two.generator.calls)
        hang_up(one, ROUTE, ASKED, lambda: len(_all(one)) == 1, **{"x-stainless-retry-count": "0"})
        threading.Timer(0.5, go_on).start()
        made = _id(two.post(ROUTE, **_sent(1)))
        assert [one["id"] for one in _all(two)] == [made]
        assert len(two.generator.calls) == calls


def test_first_requests_on_two_replicas_stay_apart(tmp_path: Path) -> None:
    with running(tmp_path) as one, running(tmp_path) as two:
        answers: list[httpx.Response] = []
        threads = [
            threading.Thread(target=lambda at=at: answers.append(at.post(ROUTE, **_sent(0)))) for at in (one, two) * 4
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({_id(answer) for answer in answers}) == 8
        assert _id(two.post(ROUTE, **_sent(1))) in {_id(answer) for answer in answers}


@pytest.mark.parametrize("window_s", [0.0, 0.001])
def test_without_a_window_or_after_it_a_retry_starts_again(tmp_path: Path, window_s: float) -> None:
    with running(tmp_path, retry_window_s=window_s) as house:
        first = _id(house.post(ROUTE, **_sent(0)))
        assert _id(house.post(ROUTE, **_sent(1))) != first


@pytest.mark.parametrize("attempt", ["", "-1", "x", "1.5", "9" * 5000])
def test_numbers_of_attempts_that_are_none(house: House, attempt: str) -> None:
    answer = house.post(ROUTE, json=ASKED, headers={"x-stainless-retry-count": attempt})
    assert answer.status_code == 200
