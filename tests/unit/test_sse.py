"""Streams of events: what comes at once is sent at once, slow clients hold up their own reader, silence is filled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from fastapi.sse import KEEPALIVE_COMMENT

from app.api import sse
from app.errors import StoreUnavailable


def chunks(events: Callable[[], AsyncIterator[bytes]], life_s: float = 60.0) -> list[bytes]:
    async def read() -> list[bytes]:
        return [bytes(c) async for c in sse.EventStreamResponse("g", events(), lifetime_s=life_s).body_iterator]  # type: ignore[arg-type]

    return asyncio.run(read())


def test_events_of_one_moment_are_one_chunk() -> None:
    async def events() -> AsyncIterator[bytes]:
        for place in range(20):
            yield b"%d;" % place
        await asyncio.sleep(0.01)
        yield b"last"

    assert chunks(events) == [b"".join(b"%d;" % place for place in range(20)), b"last"]


def test_a_slow_client_holds_up_the_reading() -> None:
    made = 0

    async def events() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield b"x"

    async def read() -> None:
        body = aiter(sse.EventStreamResponse("g", events()).body_iterator)
        assert len(await anext(body)) == sse.MAX_BUFFERED_EVENTS
        await asyncio.sleep(0.01)
        assert sse.MAX_BUFFERED_EVENTS < made <= 2 * sse.MAX_BUFFERED_EVENTS + 2
        assert sum([len(chunk) async for chunk in body]) == 1000 - sse.MAX_BUFFERED_EVENTS

    asyncio.run(read())


def test_silence_is_filled_and_life_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.02)

    async def events() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(60)

    told = chunks(events, life_s=1.0)
    assert told[0] == b"first"
    assert set(told[1:]) == {KEEPALIVE_COMMENT}


def test_an_error_ends_the_stream() -> None:
    async def known() -> AsyncIterator[bytes]:
        yield b"first"
        raise StoreUnavailable("the database is away")

    async def unknown() -> AsyncIterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    assert b"event: error" in chunks(known)[0]
    with pytest.raises(ZeroDivisionError):
        chunks(unknown)
