"""Rows of a call shared out among cores: the same rows come back, in order, and their bits depend on the count only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from models.sharing import Sharing  # noqa: E402

pytestmark = pytest.mark.torch


class Spy:
    """Doubles what it is given and notes the rows, the threads and the thread of every part."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, int, str]] = []
        self.lock = threading.Lock()

    def __call__(self, x: Any) -> Any:
        with self.lock:
            self.parts.append((len(x), torch.get_num_threads(), threading.current_thread().name))
        assert torch.is_inference_mode_enabled()
        return x * 2


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "count", "parts"),
    [
        (2, 2, [(1, 1)] * 2),
        (2, 32, [(16, 1)] * 2),
        (2, 5, [(3, 1)] * 2),
        (4, 2, [(1, 2)] * 2),
        (4, 5, [(2, 1)] * 3),
        (8, 3, [(1, 2)] * 3),
    ],
)
def test_rows_come_back_in_order_from_parts_of_one_size(cores: int, count: int, parts: list[tuple[int, int]]) -> None:
    spy = Spy()
    x = torch.randn(count, 3, 2)
    assert torch.equal(Sharing(cores)(spy, x), x * 2)
    assert [(rows, threads) for rows, threads, _ in spy.parts] == parts
    assert all(name.startswith("share") for _, _, name in spy.parts)


@pytest.mark.parametrize(("cores", "count"), [(1, 4), (4, 1)])
def test_one_core_or_one_row_is_no_reason_to_leave_the_thread(cores: int, count: int) -> None:
    spy = Spy()
    with torch.inference_mode():
        Sharing(cores)(spy, torch.zeros(count, 1))
    assert [(rows, name) for rows, _, name in spy.parts] == [(count, threading.current_thread().name)]


@pytest.mark.parametrize(("count", "parts"), [(4, [(4, 3)]), (7, [(7, 3)]), (8, [(4, 1)] * 2), (13, [(5, 1)] * 3)])
def test_no_part_is_smaller_than_asked(count: int, parts: list[tuple[int, int]]) -> None:
    spy = Spy()
    torch.set_num_threads(3)
    with torch.inference_mode():
        assert len(Sharing(3)(spy, torch.zeros(count, 1), fewest=4)) == count
    assert [(rows, threads) for rows, threads, _ in spy.parts] == parts


def test_inputs_are_shared_out_alike() -> None:
    x, y = torch.arange(7.0), torch.arange(7.0) * 10
    assert torch.equal(Sharing(3)(lambda a, b: a + b, x, y), x + y)


def test_the_bits_of_a_row_do_not_depend_on_its_place() -> None:
    torch.manual_seed(0)
    layer, row = torch.nn.Conv2d(16, 24, 3, padding=1), torch.randn(1, 16, 8, 8)
    company, share, found = torch.randn(7, 16, 8, 8), Sharing(2), set()
    for place in range(7):
        batch = company.clone()
        batch[place] = row[0]
        found.add(share(layer, batch)[place].numpy().tobytes())
    assert len(found) == 1


def test_an_error_is_raised_once_every_part_has_ended() -> None:
    ended = []

    def work(x: Any) -> Any:
        if x[0] == 0:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        threading.Event().wait(0.05)
        ended.append(True)
        return x

    with pytest.raises(RuntimeError, match="not enough memory"):
        Sharing(2)(work, torch.arange(2.0))
    assert ended == [True]
