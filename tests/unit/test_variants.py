"""Wordings that the server makes: from presets, and by a chat model that may fail in any way."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from app.domain import Notice
from app.service import presets
from app.service.presets import Preset, Presets, preset_wordings
from app.service.variants import (
    CALLS_AT_ONCE,
    HOUR_S,
    PAUSE_S,
    ChatRewriter,
    VariantMaker,
    check_rewriter,
)
from app.service.webhooks.http_client import DeliveryError, WebhookClient

pytestmark = pytest.mark.slow

PROMPT, KEY = "a red apple", "sk-secret-key"
BUILT_IN = Presets.read(presets.DEFAULT_PRESETS_PATH)


class Chat:
    """A chat endpoint: what it answers, and what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes | None = None
        self.texts: Any = []
        self.delay_s = 0.0
        self.coding = ""
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    def answer(self) -> bytes:
        content = self.texts if isinstance(self.texts, str) else json.dumps(self.texts)
        return self.body or json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@contextmanager
def serving(chat: Chat) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chat.requests.append((self.path, dict(self.headers), sent))
            time.sleep(chat.delay_s)
            data = chat.answer()
            self.send_response(chat.status)
            self.send_header("content-length", str(len(data)))
            if chat.coding:
                self.send_header("content-encoding", chat.coding)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def made(
    chat: Chat, count: int = 3, *, private: bool = True, calls: int = 10, times: int = 1, timeout_s: float = 10.0
) -> tuple[tuple[str, ...], tuple[Notice, ...]]:
    """The last of `times` answers."""

    async def run(url: str) -> tuple[tuple[str, ...], tuple[Notice, ...]]:
        client = WebhookClient(allow_private=private, timeout_s=timeout_s)
        rewriter = ChatRewriter(client, url, "tiny", KEY, calls)
        maker = VariantMaker(BUILT_IN, rewriter, 200)
        try:
            for _ in range(times - 1):
                await maker.make(PROMPT, count)
            return await maker.make(PROMPT, count)
        finally:
            await rewriter.close()

    with serving(chat) as url:
        return asyncio.run(run(url))


def test_a_chat_model_rewrites_within_its_request() -> None:
    chat = Chat()
    chat.texts = ["an apple, red", "one  crimson\napple", "a third"]
    wordings, notices = made(chat)
    assert wordings == (PROMPT, "an apple, red", "one crimson apple")
    assert notices == ()
    ((path, headers, sent),) = chat.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert sent["model"] == "tiny"
    assert sent["messages"][-1] == {"role": "user", "content": PROMPT}
    chat.texts = 'Sure! ```json\n["fenced"]\n```'
    assert made(chat, 2)[0] == (PROMPT, "fenced")


def test_the_prompts_of_a_batch_are_rewritten_side_by_side_within_a_bound() -> None:
    class Slow:
        """Answers when as many calls wait as may run at once, or no more will come."""

        def __init__(self) -> None:
            self.running, self.most, self.calls = 0, 0, 0

        async def fetch(self, url: str, body: bytes, *rest: Any) -> bytes:
            self.running += 1
            self.calls += 1
            self.most = max(self.most, self.running)
            for _turn in range(20):
                await asyncio.sleep(0)
            self.running -= 1
            prompt = json.loads(body)["messages"][-1]["content"]
            return json.dumps({"choices": [{"message": {"content": json.dumps([f"{prompt} again"])}}]}).encode()

    async def run() -> dict[int, tuple[str, ...]]:
        maker = VariantMaker(BUILT_IN, ChatRewriter(cast(Any, slow), "https://x/v1", "tiny", "", 100), 200)
        made = await maker.make_all({index: (f"prompt {index}", 2) for index in range(3, 23)})
        return {index: wordings for index, (wordings, _) in made.items()}

    slow = Slow()
    made = asyncio.run(run())
    assert made == {index: (f"prompt {index}", f"prompt {index} again") for index in range(3, 23)}
    assert (slow.calls, slow.most) == (20, CALLS_AT_ONCE)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"texts": "I would rather not."}, "JSON array"),
        ({"texts": {"a": 1}}, "JSON array"),
        ({"body": b"<html>"}, "JSON array"),
        ({"body": b'{"choices": []}'}, "JSON array"),
        ({"body": b"[" * 60_000}, "JSON array"),
        ({"body": b"x" * 100_000}, "exceeds"),
        ({"body": gzip.compress(gzip.compress(bytes(2**24))), "coding": "gzip, gzip"}, "gzip or deflate"),
        ({"status": 500}, "500"),
        ({"status": 401}, "401"),
        ({"status": 302}, "302"),
        ({"texts": [1, "", "\x00", "x" * 300, PROMPT]}, "0 of 2"),
    ],
)
def test_what_a_chat_model_does_not_deliver_comes_from_presets(
    fault: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    chat = Chat()
    for name, value in fault.items():
        setattr(chat, name, value)
    with caplog.at_level(logging.DEBUG):
        wordings, notices = made(chat)
    assert wordings[0] == PROMPT
    assert len(set(wordings)) == 3
    assert [notice.code for notice in notices] == ["rewriter_failed"]
    assert told in notices[0].detail
    assert KEY not in caplog.text + notices[0].detail


def test_a_prompt_that_is_refused_anyway_costs_no_call() -> None:
    async def run() -> tuple[tuple[str, ...], tuple[Notice, ...]]:
        rewriter = ChatRewriter(WebhookClient(), "https://llm.example.com/v1", "tiny", KEY, 1)
        try:
            return await VariantMaker(BUILT_IN, rewriter, 200).make("x" * 201, 3)
        finally:
            await rewriter.close()
            assert not rewriter._calls

    assert asyncio.run(run()) == ((), ())


def test_a_chat_model_that_stalls_is_given_up() -> None:
    chat = Chat()
    chat.delay_s = 1.0
    wordings, notices = made(chat, timeout_s=0.2)
    assert len(wordings) == 3
    assert "no response within 0.2 s" in notices[0].detail


def test_private_addresses_are_refused_unless_allowed() -> None:
    chat = Chat()
    _, notices = made(chat, private=False)
    assert "not public" in notices[0].detail
    assert chat.requests == []


def test_the_budget_of_an_hour_bounds_the_calls() -> None:
    chat = Chat()
    chat.texts = ["one", "two"]
    _, notices = made(chat, calls=2, times=3)
    assert "budget" in notices[0].detail
    assert len(chat.requests) == 2


def test_the_budget_returns_after_an_hour() -> None:
    chat, now = Chat(), [0.0]
    chat.texts = ["one"]

    async def run(url: str) -> None:
        rewriter = ChatRewriter(WebhookClient(allow_private=True), url, "tiny", "", 1, clock=lambda: now[0])
        await rewriter.rewrite(PROMPT, 1)
        now[0] = HOUR_S
        await rewriter.rewrite(PROMPT, 1)
        await rewriter.close()

    with serving(chat) as url:
        asyncio.run(run(url))
    assert [("authorization" in headers) for _, headers, _ in chat.requests] == [False, False]


def test_after_a_call_that_failed_none_is_made_for_a_while() -> None:
    chat, now = Chat(), [0.0]
    chat.texts, chat.status = ["one"], 503

    async def run(url: str) -> list[str]:
        rewriter = ChatRewriter(WebhookClient(allow_private=True), url, "tiny", "", 9, clock=lambda: now[0])
        for told in ("503", "none is made for 30 s"):
            with pytest.raises(DeliveryError, match=told):
                await rewriter.rewrite(PROMPT, 1)
        chat.status, now[0] = 200, PAUSE_S
        try:
            return await rewriter.rewrite(PROMPT, 1)
        finally:
            await rewriter.close()

    with serving(chat) as url:
        assert asyncio.run(run(url)) == ["one"]
    assert len(chat.requests) == 2


def test_presets_are_tried_in_turn_from_groups_that_the_prompt_does_not_mention() -> None:
    few = Presets(
        (
            Preset("light", "Night", "at night", words=("at night",)),
            Preset("light", "Studio", "studio light"),
            Preset("framing", "Close", "close-up"),
            Preset("framing", "None", ""),
        )
    )
    texts = [f"{PROMPT}, {words}" for words in ("at night", "close-up", "studio light")]
    assert preset_wordings(f"{PROMPT}.", few) == texts
    assert preset_wordings("a house at night", few) == ["a house at night, close-up"]


def test_too_few_presets_are_told() -> None:
    wordings, notices = asyncio.run(VariantMaker(Presets(()), None, 200).make(PROMPT, 4))
    assert wordings == (PROMPT,)
    assert [notice.code for notice in notices] == ["fewer_variants"]


@pytest.mark.parametrize(
    ("url", "model", "private"),
    [
        ("http://10.0.0.1/v1", "m", False),
        ("ftp://host/v1", "m", True),
        ("https://", "m", True),
        ("https://user@host/v1", "m", True),
        ("https://host/v1?x=1", "m", True),
        ("https://host:99999/v1", "m", True),
        ("https://host/v1", "", True),
    ],
)
def test_settings_of_a_rewriter_that_cannot_work(url: str, model: str, private: bool) -> None:
    with pytest.raises(ValueError, match="REWRITER_"):
        check_rewriter(url, model, private=private)
    check_rewriter("", "", private=False)
    check_rewriter("http://10.0.0.1:8000/v1", "m", private=True)
