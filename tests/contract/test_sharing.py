"""Rows of a call shared out among cores: the same rows come back, in order, and their bits depend on the count only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from models.runtime.row_parallel import RowParallel  # noqa: E402
from models.runtime.traced_calls import TracedCall  # noqa: E402

pytestmark = pytest.mark.torch


class Spy:
    """Doubles what it is given, (B, 1500), and notes the rows and the threads of every part, by thread.

    A `large` one does so with a matrix product of 4.5 million floating-point operations a row.
    """

    def __init__(self, large: bool = True) -> None:
        self.parts: list[tuple[int, int, str]] = []
        self.lock = threading.Lock()
        self.doubling = 2 * torch.eye(1500) if large else None

    def __call__(self, x: Any) -> Any:
        with self.lock:
            self.parts.append((len(x), torch.get_num_threads(), threading.current_thread().name))
        assert torch.is_inference_mode_enabled()
        return x * 2 if self.doubling is None else x @ self.doubling

    @property
    def shared(self) -> list[tuple[int, int]]:
        """Rows and threads of the parts that worker threads had."""
        return [(rows, threads) for rows, threads, name in self.parts if name.startswith("share")]


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
        (4, 2, [(1, 1)] * 2),
        (8, 6, [(1, 1)] * 6),
        (9, 5, [(1, 1)] * 5),
    ],
)
def test_rows_come_back_in_order_from_parts_of_one_size(cores: int, count: int, parts: list[tuple[int, int]]) -> None:
    spy = Spy()
    x = torch.randn(count, 1500)
    assert RowParallel(cores)(spy, x).allclose(x * 2)
    assert spy.shared == parts


@pytest.mark.parametrize(
    ("cores", "count", "min_rows", "parts"),
    [(8, 8, 4, [(4, 4)] * 2), (3, 2, 2, [(2, 2)]), (16, 3, 3, [(3, 3)]), (12, 9, 3, [(3, 3)] * 3)],
)
def test_a_part_has_the_threads_that_its_operations_are_worth(
    cores: int, count: int, min_rows: int, parts: list[tuple[int, int]]
) -> None:
    large, small = Spy(), Spy(large=False)
    share, x = RowParallel(cores), torch.randn(count, 1500)
    assert share(large, x, min_rows=min_rows).allclose(x * 2)
    assert large.shared == parts
    assert share(small, x, min_rows=min_rows).equal(x * 2)
    assert small.shared == [(rows, 1) for rows, _ in parts]


def test_operations_are_counted_once_for_rows_of_a_shape() -> None:
    spy, share = Spy(large=False), RowParallel(2)
    for count in (1, 2, 3):
        share(spy, torch.zeros(count, 7), min_rows=4)
    assert len(spy.parts) == 2 + 3
    share(spy, torch.zeros(1, 8))
    assert len(spy.parts) == 2 + 3 + 2 + 1


def test_a_recording_has_the_threads_of_the_call_behind_it() -> None:
    small, large = Spy(large=False), Spy(large=True)

    class Recording(TracedCall):
        def __call__(self, x: Any) -> Any:
            return small(x)

    RowParallel(3)(Recording(large), torch.zeros(2, 1500), min_rows=2)
    assert len(large.parts) == 1
    assert small.shared == [(2, 2)]


def test_one_core_is_no_reason_to_leave_the_thread() -> None:
    spy = Spy()
    with torch.inference_mode():
        RowParallel(1)(spy, torch.zeros(4, 1500))
    assert [(rows, name) for rows, _, name in spy.parts] == [(4, threading.current_thread().name)]


def test_what_is_worth_all_threads_stays_where_it_is() -> None:
    spy = Spy()
    with torch.inference_mode():
        RowParallel(2)(spy, torch.zeros(2, 1500), min_rows=2)
    assert spy.shared == []
    assert len(spy.parts) == 2 + 1


def test_no_rows_are_no_reason_to_share() -> None:
    with torch.inference_mode():
        assert RowParallel(2)(Spy(), torch.zeros(0, 1500)).shape == (0, 1500)


@pytest.mark.parametrize(("count", "parts"), [(4, [4]), (7, [7]), (8, [4] * 2), (13, [5] * 3)])
def test_no_part_is_smaller_than_asked(count: int, parts: list[int]) -> None:
    spy = Spy(large=False)
    assert len(RowParallel(3)(spy, torch.zeros(count, 1), min_rows=4)) == count
    assert [rows for rows, _ in spy.shared] == parts


def test_inputs_are_shared_out_alike() -> None:
    x, y = torch.arange(7.0), torch.arange(7.0) * 10
    assert torch.equal(RowParallel(3)(lambda a, b: a + b, x, y), x + y)


def test_the_bits_of_a_row_do_not_depend_on_its_place() -> None:
    torch.manual_seed(0)
    layer, row = torch.nn.Conv2d(16, 24, 3, padding=1), torch.randn(1, 16, 8, 8)
    company, share, found = torch.randn(7, 16, 8, 8), RowParallel(2), set()
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
        RowParallel(2)(work, torch.arange(2.0))
    assert ended == [True]
