"""A judge behind a chat endpoint: what it is asked, how answers are read, and what happens when it fails."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models import registry
from models.errors import ModelUnsupported, ScoringFailed
from models.families import Source
from models.load_options import EndpointLimits, LoadOptions
from models.scorers import chat_endpoint, questions
from models.scorers.chat_endpoint import ChatScorer
from tests.servers import until

pytestmark = pytest.mark.slow

ADDRESS = "https://judge.internal/v1#big-model"
KEY = "sk-very-secret"
PICTURES = np.stack([np.full((8, 12, 3), 40 * shade, np.uint8) for shade in range(6)])


def chosen(content: Any = "Yes", logprobs: Any = None) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}, "logprobs": logprobs}]}


def likely(**words: float) -> dict[str, Any]:
    """Log probabilities of the first token."""
    top = [{"token": word, "logprob": float(np.log(share))} for word, share in words.items()]
    return {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": top}]}


def shade(body: Any) -> int:
    """Which of `PICTURES` a request shows."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))
    return round(float(np.asarray(picture).mean()) / 40)


Answer = Callable[[Any, int], Any]


class Endpoint(httpx.AsyncBaseTransport):
    """Answers in memory; `answer` gets the body and the number of the request."""

    def __init__(self, answer: Answer) -> None:
        self.requests = list[httpx.Request]()
        self.bodies = list[Any]()
        self.most = self._open = 0
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            body = json.loads(await request.aread())
            self.requests.append(request)
            self.bodies.append(body)
            answer = self._answer(body, len(self.bodies))
            if asyncio.iscoroutine(answer):
                answer = await answer
            await asyncio.sleep(0)
            return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)
        finally:
            self._open -= 1


def scorer(answer: Answer, **limits: Any) -> tuple[ChatScorer, Endpoint]:
    endpoint = Endpoint(answer)
    return ChatScorer(ADDRESS, EndpointLimits(**{"api_key": KEY} | limits), transport=endpoint), endpoint


def failure(judge: ChatScorer, pictures: Any = PICTURES) -> ScoringFailed:
    with pytest.raises(ScoringFailed) as caught:
        judge.score(pictures, "a red apple")
    for secret in (KEY, "judge.internal"):
        assert secret not in str(caught.value)
    assert str(caught.value).startswith("vlm:big-model ")
    return caught.value


def by_shade(body: Any, number: int) -> Any:
    share = (1 + shade(body)) / 10
    return chosen(logprobs=likely(Yes=share * 0.8, No=(1 - share) * 0.8, Maybe=0.2))


def test_the_share_of_yes_is_the_score_in_the_order_of_the_images() -> None:
    judge, endpoint = scorer(by_shade)
    np.testing.assert_allclose(judge.score(PICTURES, "a red apple"), np.arange(1, 7) / 10, rtol=1e-5)
    assert judge.score(PICTURES[:0], "a red apple").shape == (0,)
    assert len(endpoint.bodies) == 6
    request, body = endpoint.requests[0], endpoint.bodies[0]
    assert str(request.url) == "https://judge.internal/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["logprobs"], body["temperature"]) == ("big-model", True, 0)
    assert body["messages"][0]["content"][1]["text"] == questions.yes_or_no("a red apple")
    assert (judge.info.id, judge.info.remote, judge.info.device) == ("vlm:big-model", True, "remote")
    assert judge.info.revision == ChatScorer(ADDRESS, EndpointLimits()).info.revision


@pytest.mark.parametrize("refused", [True, False])
def test_without_log_probabilities_all_images_get_grades(refused: bool) -> None:
    def answer(body: Any, number: int) -> Any:
        if body.get("logprobs"):
            return httpx.Response(400, json={"error": "logprobs"}) if refused else chosen("Yes")
        return chosen(f" {shade(body) + 2.5}/10.\n")

    judge, endpoint = scorer(answer)
    for calls in (7, 6):  # one question is for finding out
        np.testing.assert_allclose(judge.score(PICTURES, "a red apple"), (np.arange(6) + 2.5) / 10, rtol=1e-6)
        assert len(endpoint.bodies) == calls
        endpoint.bodies.clear()


def test_an_endpoint_that_refuses_everything_is_asked_for_probabilities_again() -> None:
    ready = False

    def answer(body: Any, number: int) -> Any:
        return by_shade(body, number) if ready else httpx.Response(404, json={"error": "no such model yet"})

    judge, endpoint = scorer(answer)
    assert failure(judge).reason == "refused"
    ready = True
    np.testing.assert_allclose(judge.score(PICTURES, "a red apple"), np.arange(1, 7) / 10, rtol=1e-5)
    assert all(body.get("logprobs") for body in endpoint.bodies[2:])


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Yes", 1), ("no.", 0), (" **Yes** ", 1), ('"No"', 0), ("7", 0.7), ("10", 1), ("0", 0), ("8.25 / 10", 0.825),
        ("9 out of 10", 0.9), ("", None), ("11", None), ("-3", None), ("7 because it is red", None), ("nan", None),
        ("Yes and no", None), ("I cannot judge images.", None), ("٣", None), ("1e1", None), ("7/100", None),
    ],
)  # fmt: skip
def test_only_a_bare_answer_is_read(answer: str, value: float | None) -> None:
    assert questions.read_answer(answer) == value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (chosen("It is a fine picture of an apple."), "unreadable"),
        (chosen(None), "unreadable"),
        (chosen(["Yes"]), "unreadable"),
        (chosen(logprobs=likely(The=0.9)), "unreadable"),
        (chosen(logprobs={"content": None}), "unreadable"),
        (chosen(logprobs={"content": [{"token": 3}]}), "unreadable"),
        (chosen(logprobs={"content": [{"token": "Yes", "logprob": "high"}]}), "unreadable"),
        ({"choices": []}, "unreadable"),
        (["Yes"], "unreadable"),
        (httpx.Response(200, content=b"<html>"), "unreadable"),
        (httpx.Response(200, content=b"\xff\xfe"), "unreadable"),
        (httpx.Response(200, content=b"[" * 100_000), "unreadable"),
        (httpx.Response(200, content=b"x" * 2**21), "unreadable"),
        (httpx.Response(200, content=b'{"choices":[{"message":{},"logprobs":{"content":[{"token":"Yes",'
                        b'"logprob":NaN}]}}]}'), "unreadable"),
        (httpx.Response(401), "refused"),
        (httpx.Response(404), "refused"),
        (httpx.Response(307, headers={"location": "http://169.254.169.254/"}), "refused"),
        (httpx.Response(500), "unreachable"),
        (httpx.Response(429, headers={"retry-after": "3600"}), "rate_limited"),
        (httpx.Response(429, headers={"retry-after": "0"}), "rate_limited"),
        (httpx.Response(503, headers={"retry-after": "0"}), "unreachable"),
    ],
)  # fmt: skip
def test_an_answer_without_a_score_is_a_typed_failure(answer: Any, reason: str) -> None:
    judge, endpoint = scorer(lambda *_: answer)
    assert failure(judge, PICTURES[:1]).reason == reason
    assert {request.url.host for request in endpoint.requests} == {"judge.internal"}, "redirects are not followed"


def test_an_answer_in_nested_compressions_is_not_unpacked() -> None:
    def answer(body: Any, number: int) -> httpx.Response:
        whole = json.dumps(by_shade(body, number)).encode()
        nested = number == 1
        data = gzip.compress(gzip.compress(whole) if nested else whole)
        return httpx.Response(200, content=data, headers={"content-encoding": "gzip, gzip" if nested else "gzip"})

    judge, endpoint = scorer(answer)
    assert failure(judge, PICTURES[:1]).reason == "unreadable"
    assert judge.score(PICTURES[:1], "a red apple").shape == (1,)
    assert endpoint.requests[0].headers["accept-encoding"] == "gzip, deflate"


def test_one_bad_answer_fails_the_field() -> None:
    judge, _ = scorer(lambda body, number: chosen(logprobs=likely(The=1.0)) if number == 4 else by_shade(body, number))
    assert failure(judge).reason == "unreadable"
    np.testing.assert_allclose(judge.score(PICTURES, "a red apple"), np.arange(1, 7) / 10, rtol=1e-5)


def test_a_busy_endpoint_is_asked_again_when_it_says() -> None:
    def answer(body: Any, number: int) -> Any:
        return httpx.Response(429, headers={"retry-after": "0"}) if number in (1, 2) else by_shade(body, number)

    judge, endpoint = scorer(answer)
    assert judge.score(PICTURES[:2], "a red apple").shape == (2,)
    assert len(endpoint.bodies) == 4


@pytest.mark.parametrize("part", ["answer", "body"])
def test_an_endpoint_that_stalls_is_given_up_and_left_alone(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    async def wait() -> Any:
        if part == "answer":
            await asyncio.sleep(3600)
        return httpx.Response(200, content=drip())

    judge, endpoint = scorer(lambda *_: wait(), timeout_s=0.2)
    assert failure(judge).reason == "timeout"
    sent = len(endpoint.bodies)
    assert failure(judge).reason == "unreachable"
    assert len(endpoint.bodies) == sent, "no request while it is left alone"
    monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + chat_endpoint._PAUSE_S)
    assert failure(judge).reason == "timeout"


def test_waiting_for_other_calls_of_the_endpoint_is_no_stall() -> None:
    judge, endpoint = scorer(by_shade, timeout_s=60, concurrency=1)
    clock = judge._loop.time
    asyncio.run_coroutine_threadsafe(judge._free.acquire(), judge._loop).result()  # another call has the only place
    with ThreadPoolExecutor(1) as pool:
        scores = pool.submit(judge.score, PICTURES[:2], "a red apple")
        until(lambda: judge._free._waiters)
        judge._loop.time = lambda: clock() + 3600  # type: ignore[method-assign]
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), judge._loop).result()
        assert not scores.done()
        assert endpoint.bodies == []
        judge._loop.call_soon_threadsafe(judge._free.release)
        np.testing.assert_allclose(scores.result(), [0.1, 0.2], rtol=1e-5)


def test_a_lost_connection_is_told() -> None:
    def fail(*_: Any) -> Any:
        raise httpx.ConnectError(f"no route to judge.internal with {KEY}")

    assert failure(scorer(fail)[0]).reason == "unreachable"


def test_requests_at_once_and_calls_of_a_day_are_limited() -> None:
    judge, endpoint = scorer(by_shade, concurrency=2)
    threads = [threading.Thread(target=judge.score, args=(PICTURES, "a red apple")) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(endpoint.bodies), endpoint.most) == (18, 2)

    days = [10.2]
    frugal = ChatScorer(
        ADDRESS, EndpointLimits(calls_per_day=8), transport=(few := Endpoint(by_shade)), clock=lambda: days[0] * 86400
    )
    assert frugal.score(PICTURES, "red").shape == (6,)
    for _ in range(2):
        assert "its 8 calls of today" in str(failure(frugal))
    assert failure(frugal).reason == "budget_spent"
    assert len(few.bodies) == 6, "a field that does not fit spends nothing"
    days[0] += 1
    assert frugal.score(PICTURES, "red").shape == (6,)


@pytest.mark.parametrize(
    "address",
    [
        "https://host/v1", "https://host/v1#", "ftp://host/v1#m", "https:///v1#m", "https://user:pass@host/v1#m",
        "https://host/v1?key=1#m", "https://ho st/v1#m", "https://host:99999999/v1#m",
        "https://user:pass@host",
    ],
)  # fmt: skip
def test_an_address_of_another_form_is_refused(address: str) -> None:
    said = list[str]()
    with pytest.raises(ModelUnsupported, match="vlm:https://HOST/v1#MODEL") as caught:
        registry.load_models("fake", "fake", options=LoadOptions(scorers=(f"vlm:{address}",)), report=said.append)
    assert "pass" not in str([*said, caught.value]).replace("password", "")


def test_large_images_are_sent_small() -> None:
    judge, endpoint = scorer(by_shade)
    judge.score(np.zeros((1, 1500, 3000, 3), np.uint8), "black")
    url = endpoint.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))).size == (1024, 512)


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A real endpoint; the headers of its requests."""
    seen = list[dict[str, str]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append({name.lower(): value for name, value in self.headers.items()})
            answer = json.dumps(by_shade(body, 0)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"vlm:http://127.0.0.1:{serving.server_port}/v1#local/model", seen
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_a_private_endpoint_is_loaded_by_name_and_the_key_is_never_logged(
    server: tuple[str, list[dict[str, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    name, seen = server
    caplog.set_level(logging.DEBUG)
    options = LoadOptions(scorers=("fake-2",), referee=name, endpoint=EndpointLimits(api_key=KEY))
    models = registry.load_models("fake", "fake", options=options)
    assert models.referee is not None
    assert models.referee.info.id == Source(name).label == "vlm:local/model"
    assert not hasattr(models.referee, "embed_images")
    np.testing.assert_allclose(models.referee.score(PICTURES, "red"), np.arange(1, 7) / 10, rtol=1e-5)
    assert {each["authorization"] for each in seen} == {f"Bearer {KEY}"}
    assert KEY not in caplog.text
    assert KEY not in repr(options)
