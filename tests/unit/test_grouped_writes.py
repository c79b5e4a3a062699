"""Writes that share a transaction: each gets its own result or error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.stores.connections.grouped import MOST, GroupedWrites

pytestmark = pytest.mark.anyio

NO_CONNECTION = cast(Connection, None)


class Transactions:
    """Runs functions, one transaction at a time, when allowed."""

    def __init__(self) -> None:
        self.allowed = asyncio.Event()
        self.sizes: list[int] = []

    async def run(self, work: Callable[[Connection], Any]) -> Any:
        await self.allowed.wait()
        results = work(NO_CONNECTION)
        self.sizes.append(len(results))
        return results


def _giving(number: int) -> Callable[[Connection], int]:
    return lambda _: number


async def _all(writes: GroupedWrites, works: list[Callable[[Connection], Any]], here: Transactions) -> list[Any]:
    first = asyncio.create_task(writes.write(lambda _: "first"))
    await asyncio.sleep(0)
    others = [asyncio.create_task(writes.write(work)) for work in works]
    await asyncio.sleep(0)
    here.allowed.set()
    found = await asyncio.gather(first, *others, return_exceptions=True)
    assert found[0] == "first"
    return found[1:]


async def test_what_waits_shares_a_transaction() -> None:
    here = Transactions()
    found = await _all(GroupedWrites(here.run, ()), [_giving(n) for n in range(MOST + 3)], here)
    assert found == list(range(MOST + 3))
    assert here.sizes == [1, MOST, 3]


async def test_an_error_is_that_of_its_write_only() -> None:
    here = Transactions()
    found = await _all(GroupedWrites(here.run, ()), [lambda _: 1, lambda _: 1 // 0, lambda _: 3], here)
    assert (found[0], type(found[1]), found[2]) == (1, ZeroDivisionError, 3)
    assert here.sizes == [1, 1, 1]


async def test_a_lost_connection_is_the_error_of_all() -> None:
    here = Transactions()
    runs: list[int] = []

    def lost(_: Connection) -> None:
        runs.append(1)
        raise OperationalError("", {}, Exception())

    found = await _all(GroupedWrites(here.run, (OperationalError,)), [lambda _: 1, lost], here)
    assert [type(each) for each in found] == [OperationalError, OperationalError]
    assert len(runs) == 1


async def test_a_write_that_nobody_waits_for_any_more_is_left_out() -> None:
    here = Transactions()
    writes = GroupedWrites(here.run, ())
    first = asyncio.create_task(writes.write(lambda _: 1))
    await asyncio.sleep(0)
    gone, kept = (asyncio.create_task(writes.write(_giving(n))) for n in (2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    here.allowed.set()
    assert (await first, await kept) == (1, 3)
    assert here.sizes == [1, 1]
