"""Hostile uploads of every format: refused by what they are made of, or read at a small cost; never by the clock."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import BadImage, DecoderUnavailable, FrontrunnerError, TooComplex
from app.imaging import DecoderPool, Upload, encode
from tests.hostile import BOMBS, saved

pytestmark = pytest.mark.slow

LIMIT = 40_000_000
DEADLINE_S = 30.0
MEMORY_MIB = 700
"""Little more than the largest upload that is allowed may need."""


PICTURE = Upload(saved(Image.new("RGB", (8, 8)), "PNG"))


@asynccontextmanager
async def _pool(timeout_s: float = DEADLINE_S, memory_mib: int = MEMORY_MIB) -> AsyncIterator[DecoderPool]:
    pool = DecoderPool(1, timeout_s, memory_mib)
    try:
        yield pool
    finally:
        await pool.close()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_structure_or_read_cheaply(name: str) -> None:
    make, refusal = BOMBS[name]
    upload = Upload(make())

    async def both() -> FrontrunnerError | None:
        async with _pool() as pool:
            try:
                await pool.measure(upload, LIMIT)
                await pool.decode(upload, LIMIT)
            except FrontrunnerError as error:
                return error
            return None

    found = asyncio.run(both())
    assert type(found) is (refusal or type(None)), found
    assert found is None or "limit of" not in found.detail, found.detail


def test_a_decoder_that_does_not_end_is_killed_and_replaced() -> None:
    async def hung() -> None:
        async with _pool() as pool:
            assert await pool.measure(PICTURE, LIMIT) == (8, 8)
            first = _freeze(pool)
            pool._timeout_s = 0.2
            with pytest.raises(TooComplex, match=r"limit of 0\.2 s"):
                await pool.decode(PICTURE, LIMIT)
            pool._timeout_s = DEADLINE_S
            assert (await pool.decode(PICTURE, LIMIT)).shape == (8, 8, 3)
            assert _child(pool) != first
            assert not _exists(first)

    asyncio.run(hung())


def test_work_that_is_cancelled_ends_with_its_child() -> None:
    async def cancelled() -> None:
        async with _pool() as pool:
            await pool.measure(PICTURE, LIMIT)
            first = _freeze(pool)
            working, waiting = (asyncio.create_task(pool.decode(PICTURE, LIMIT)) for _ in range(2))
            await asyncio.sleep(0.1)
            assert working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert (await waiting).shape == (8, 8, 3)
            assert not _exists(first)

    asyncio.run(cancelled())


def test_too_little_memory_says_how_much_there_was() -> None:
    async def tight() -> None:
        async with _pool(memory_mib=96) as pool:
            with pytest.raises(TooComplex, match="limit of 96 MiB"):
                await pool.decode(Upload(saved(Image.new("RGB", (6324, 6324)), "PNG", compress_level=1)), LIMIT)
            assert (await pool.decode(PICTURE, LIMIT)).shape == (8, 8, 3)

    asyncio.run(tight())


def test_a_child_that_the_system_kills_refuses_its_upload_only() -> None:
    async def killed() -> None:
        async with _pool() as pool:
            await pool.measure(PICTURE, LIMIT)
            working = asyncio.create_task(_after(0.1, partial(os.kill, _freeze(pool), signal.SIGKILL)))
            with pytest.raises(TooComplex, match=f"{MEMORY_MIB} MiB"):
                await pool.decode(PICTURE, LIMIT)
            await working
            assert (await pool.decode(PICTURE, LIMIT)).shape == (8, 8, 3)

    asyncio.run(killed())


def test_closing_leaves_no_child_and_waits_for_none() -> None:
    async def closed() -> int:
        async with _pool() as pool:
            await pool.measure(PICTURE, LIMIT)
            child = _freeze(pool)
            working = asyncio.create_task(pool.decode(PICTURE, LIMIT))
            await asyncio.sleep(0.1)
            assert not working.done()
        with pytest.raises(TooComplex):
            await working
        return child

    assert not _exists(asyncio.run(closed()))


def test_children_know_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTRUNNER_DATABASE_URL", "postgresql://secret")

    async def look() -> None:
        async with _pool() as pool:
            await pool.measure(PICTURE, LIMIT)
            with suppress(FileNotFoundError):  # not on every platform
                assert b"secret" not in _environment(_child(pool))

    asyncio.run(look())


def test_decoders_that_cannot_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")

    async def refused() -> None:
        async with _pool() as pool:
            for _ in range(3):
                with pytest.raises(DecoderUnavailable):
                    await pool.decode(PICTURE, LIMIT)

    asyncio.run(refused())


def test_images_come_back_whole_from_children() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1201, 3), np.uint8)

    async def both() -> None:
        async with _pool() as pool:
            file = Upload(encode(noise, "png"))
            assert np.array_equal(await pool.decode(file, LIMIT), noise)
            with pytest.raises(BadImage):
                await pool.decode(Upload(b"\x89PNG"), LIMIT)
            uri = Upload("data:image/png;base64," + base64.b64encode(encode(noise, "png")).decode())
            assert np.array_equal(await pool.decode(uri, LIMIT), noise)

    asyncio.run(both())


def test_a_job_that_is_cancelled_while_its_decoder_starts_keeps_the_decoder_until_then() -> None:
    file = Upload(encode(np.zeros((8, 8, 3), np.uint8), "png"))

    async def both() -> None:
        async with _pool() as pool:
            slot, begun, go = pool._slots[0], threading.Event(), threading.Event()
            start = slot.start

            def start_late() -> None:
                begun.set()
                go.wait(DEADLINE_S)
                start()

            slot.start = start_late  # type: ignore[method-assign]
            gone = asyncio.create_task(pool.decode(file, LIMIT))
            await asyncio.to_thread(begun.wait, DEADLINE_S)
            gone.cancel()
            await asyncio.wait({gone})
            assert pool._free.empty()
            go.set()
            assert (await pool.decode(file, LIMIT)).shape == (8, 8, 3)

    asyncio.run(both())


def _child(pool: DecoderPool) -> int:
    child = pool._slots[0]._child
    assert child is not None
    return child.pid


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def _freeze(pool: DecoderPool) -> int:
    """Stop the pool's child, so that what it is asked is never answered; its process id."""
    os.kill(_child(pool), signal.SIGSTOP)
    return _child(pool)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def _after(seconds: float, work: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    work()
