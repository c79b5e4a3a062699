"""When the Python client sends a request again, and when it must not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

import frontrunner
from frontrunner import ApiError, Client, ConnectionFailed, QuotaExceeded, Unauthorized, Unavailable, aio, sync
from tests.api.kit import House
from tests.clients.kit import PROMPT, Breaking, connected

BOTH = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The intervals that clients wait, instead of waiting."""
    found: list[float] = []

    async def note(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(sync, "sleep", found.append)
    monkeypatch.setattr(aio, "async_sleep", note)
    return found


class Answers(httpx.BaseTransport):
    """Gives these answers or raises these errors in turn, the last one again and again."""

    def __init__(self, *answers: httpx.Response | httpx.TransportError) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, httpx.TransportError):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def _problem(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"detail": f"about {code}", "error": {"code": code}}
    return httpx.Response(status, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


FINE = httpx.Response(202, json={"id": "gen_1"})
FULL = _problem(503, "queue_full", retry_after="7")


@BOTH
def test_it_waits_as_long_as_it_is_asked_to(kind: str, slept: list[float]) -> None:
    wire = Answers(FULL, _problem(429, "quota_exceeded", retry_after="3"), FINE)
    with connected(kind, "http://a", wire) as client:
        assert client.submit(**PROMPT)["id"] == "gen_1"
    assert slept == [7, 3]
    assert len({request.headers["idempotency-key"] for request in wire.requests}) == 1
    with connected(kind, "http://a", wire) as client:
        client.submit(**PROMPT)
    assert wire.requests[-1].headers["idempotency-key"] != wire.requests[0].headers["idempotency-key"]


@BOTH
def test_it_gives_up_after_its_attempts(kind: str, slept: list[float]) -> None:
    wire = Answers(FULL)
    with connected(kind, "http://a", wire) as client, pytest.raises(Unavailable, match="about queue_full") as caught:
        client.submit(**PROMPT)
    assert (len(wire.requests), slept, caught.value.retry_after_s) == (3, [7, 7], 7)
    with connected(kind, "http://a", wire, max_retries=0) as client, pytest.raises(Unavailable):
        client.submit(**PROMPT)
    assert len(wire.requests) == 4


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_problem(429, "quota_exceeded", retry_after="3600"), QuotaExceeded),
        (_problem(401, "unauthorized"), Unauthorized),
        (_problem(409, "not_finished", x_should_retry="false"), frontrunner.InvalidRequest),
        (_problem(500, "engine_failed", x_should_retry="false"), frontrunner.ServerError),
        (_problem(504, "queue_full", x_should_retry="false", location="/x/v1/generations/gen_2?a=b"), Unavailable),
        (httpx.Response(403, html="<p>no</p>"), frontrunner.PermissionDenied),
        (httpx.Response(307, headers={"location": "http://b/"}), frontrunner.InvalidRequest),
        (httpx.Response(400, json=["odd"]), frontrunner.InvalidRequest),
    ],
)
def test_what_a_repeat_would_not_change_is_raised_at_once(answer: httpx.Response, kind: type[ApiError]) -> None:
    wire = Answers(answer)
    with connected("sync", "http://a", wire) as client, pytest.raises(kind) as caught:
        client.submit(**PROMPT)
    assert len(wire.requests) == 1
    assert type(caught.value) is kind
    assert caught.value.generation_id == ("gen_2" if answer.status_code == 504 else None)
    assert caught.value.status == answer.status_code


@pytest.mark.parametrize(
    ("answer", "key", "sent"),
    [
        (httpx.Response(502, html="<p>bad gateway</p>"), None, 3),
        (httpx.Response(504, html="<p>timeout</p>"), None, 3),
        (httpx.Response(502), "", 1),
        (FULL, "", 3),
        (httpx.ReadTimeout("silence"), None, 3),
        (httpx.ReadTimeout("silence"), "", 1),
        (httpx.RemoteProtocolError("cut"), "", 1),
        (httpx.ConnectError("refused"), "", 3),
    ],
)
def test_without_a_key_only_what_had_no_effect_is_repeated(
    answer: httpx.Response | httpx.TransportError, key: str | None, sent: int
) -> None:
    wire = Answers(answer)
    with connected("sync", "http://a", wire) as client, pytest.raises(frontrunner.FrontrunnerError):
        client.submit(**PROMPT, idempotency_key=key)
    assert len(wire.requests) == sent
    assert {"idempotency-key" in request.headers for request in wire.requests} == {key is None}


def test_what_changes_nothing_is_repeated_without_a_key() -> None:
    for call in (
        lambda client: client.get("gen_1"),
        lambda client: client.rank("x", [b"abc"]),
        lambda client: client.rerank("gen_1", idempotency_key=""),
    ):
        wire = Answers(httpx.ReadError("cut"), httpx.Response(200, json={}))
        with connected("sync", "http://a", wire) as client:
            call(client)
        assert wire.requests[0].read() == wire.requests[1].read() or b"abc" in wire.requests[1].read()
    wire = Answers(httpx.ReadError("cut"))
    with connected("sync", "http://a", wire) as client, pytest.raises(ConnectionFailed):
        client.rerank("gen_1", store=True, idempotency_key="")
    assert len(wire.requests) == 1


@BOTH
def test_a_lost_answer_is_not_sampled_twice(kind: str, house: House) -> None:
    wire, before = Breaking(lost=2), len(house.generator.calls)
    with connected(kind, house.url, wire) as client:
        done = client.generate(**PROMPT, idempotency_key=f"cover-{kind}")
        assert client.submit(**PROMPT, idempotency_key=f"cover-{kind}")["id"] == done["id"]
    assert {request.headers["idempotency-key"] for request in wire.requests} == {f"cover-{kind}"}
    assert sum(house.generator.calls[before:]) == 3 * 4


def test_a_stopping_replica_hands_its_streams_over(slept: list[float]) -> None:
    start = b'event: queued\nid: 1\ndata: {"n_candidates": 3}\n\n'
    stop: Any = b'event: error\ndata: {"error": {"code": "draining", "message": "x", "type": "overloaded_error"}}\n\n'
    final = b'event: succeeded\r\nid: 2\r\ndata: {"status":\r\ndata: "succeeded"}\r\n\r\n'
    head = {"content-type": "text/event-stream", "location": "/v1/generations/gen_7"}
    wire = Answers(
        httpx.Response(200, content=start + stop, headers=head), FULL, httpx.Response(200, content=final, headers=head)
    )
    with connected("sync", "http://a", wire) as client:
        assert dict(client.generate(**PROMPT)) == {"status": "succeeded"}
    assert [str(request.url) for request in wire.requests[1:]] == ["http://a/v1/generations/gen_7/events"] * 2
    assert wire.requests[-1].headers["last-event-id"] == "1"
    assert 7 in slept


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        ("authentication_error", "unauthorized", Unauthorized),
        ("server_error", "engine_failed", frontrunner.ServerError),
    ],
)
def test_an_error_event_ends_a_stream(kind: str, code: str, expected: type[ApiError]) -> None:
    data = f'{{"error": {{"code": "{code}", "message": "x", "type": "{kind}"}}, "location": "/v1/generations/gen_7"}}'
    stream = httpx.Response(200, content=f"event: error\ndata: {data}\n\n".encode())
    with connected("sync", "http://a", Answers(stream)) as client, pytest.raises(expected) as caught:
        client.generate(**PROMPT)
    assert (caught.value.code, caught.value.generation_id) == (code, "gen_7")


def test_a_broken_stream_without_key_and_place_is_no_reason_to_sample_again() -> None:
    wire = Answers(httpx.Response(200, content=b": heartbeat\n\n"))
    with connected("sync", "http://a", wire) as client, pytest.raises(ConnectionFailed):
        client.generate(**PROMPT, idempotency_key="")
    assert len(wire.requests) == 1


def test_nobody_listens() -> None:
    with Client("http://127.0.0.1:9", max_retries=0) as client:
        with pytest.raises(ConnectionFailed, match=r"no service listens at http://127\.0\.0\.1:9") as caught:
            client.models()
        assert caught.value.unsent
        assert isinstance(caught.value.__cause__, httpx.ConnectError)
        client.close()
        with pytest.raises(RuntimeError):
            client.models()
