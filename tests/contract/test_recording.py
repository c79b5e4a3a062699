"""Recorded calls: the bits of the plain one for any number of rows, one recording a shape, a bound on how many."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from models.runtime import traced_calls  # noqa: E402
from models.runtime.placement import DevicePlacement, select_device  # noqa: E402
from models.runtime.row_parallel import RowParallel  # noqa: E402
from models.runtime.traced_calls import TracedCall  # noqa: E402

pytestmark = pytest.mark.torch


RECORDED = 4
"""Calls that a recording takes: one whose operations are counted, one that is watched, two to compare it with."""


class Counted:
    """A small network that counts how often Python goes through it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.GroupNorm(2, 8), torch.nn.SiLU()
        )
        self.layers.requires_grad_(False)
        self.times = 0

    def __call__(self, x: Any, scale: Any) -> Any:
        self.times += 1
        out = self.layers(x)
        return (out * scale[:, None, None, None]).reshape(x.shape[0], -1)


def inputs(rows: int, side: int = 8) -> tuple[Any, Any]:
    return torch.randn(rows, 3, side, side), torch.rand(rows)


@torch.inference_mode()
def test_a_recording_gives_the_bits_of_the_call_for_any_number_of_rows() -> None:
    call = Counted()
    recorded = TracedCall(call)
    for rows in (1, 5, 2, 16, 5):
        for _ in range(3):
            given = inputs(rows)
            assert torch.equal(recorded(*given), call(*given))
    assert call.times == RECORDED + 15, "recorded once, and 15 times called by this test"


@torch.inference_mode()
def test_every_shape_of_rows_has_its_own_and_those_beyond_the_bound_none() -> None:
    call = Counted()
    recorded = TracedCall(call)
    for side in (4, 6, 4):
        assert recorded(*inputs(2, side)).shape == (2, 8 * side * side)
    assert call.times == 2 * RECORDED
    for side in range(8, 6 + traced_calls.MAX_GRAPHS):
        recorded(*inputs(1, side))
    recorded(*inputs(1, 8))
    assert call.times == traced_calls.MAX_GRAPHS * RECORDED
    for _ in range(2):
        recorded(*inputs(1, 5))
    assert call.times == traced_calls.MAX_GRAPHS * RECORDED + 2
    recorded(*inputs(1, 4))
    assert call.times == traced_calls.MAX_GRAPHS * RECORDED + 2


def test_a_recording_that_took_one_row_for_granted_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def call(x: Any) -> Any:
        return torch.cat([row[None] * 2 for row in x])

    recorded = TracedCall(call)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        assert recorded(torch.ones(1, 8)).shape == (1, 8)
        assert recorded(torch.ones(3, 8)).shape == (3, 8)
    assert "in Python" in caplog.text


class Large:
    """A matrix product of 128 million floating-point operations a row, or a small one, beside the adding of one."""

    def __init__(self, side: int) -> None:
        torch.manual_seed(0)
        self.weights = torch.randn(side, side)
        self.rows: list[int] = []

    def __call__(self, x: Any) -> Any:
        self.rows.append(len(x))
        return x @ self.weights + 1


def test_a_call_of_large_operations_is_not_recorded_and_never_made_twice_at_first() -> None:
    call = Large(4000)
    x = torch.randn(1, 4, 4000)
    for share in (RowParallel(1), RowParallel(2)):
        recorded = TracedCall(call)
        with torch.inference_mode():
            first = share(recorded, x)
        assert call.rows == [1], "what was made to count the operations is what the call gives"
        with torch.inference_mode():
            assert torch.equal(share(recorded, x), first)
            assert torch.equal(call(x), first)
            assert share(recorded, x.repeat(3, 1, 1)).shape == (3, 4, 4000)
        assert sum(call.rows) in {6, 7}, "the last one in a row of its own for each of two cores"
        call.rows.clear()
    small = Large(400)
    with torch.inference_mode():
        RowParallel(2)(TracedCall(small), torch.randn(1, 4, 400))
    assert len(small.rows) == RECORDED


def test_threads_that_come_at_once_record_once() -> None:
    call, given = Counted(), [inputs(4) for _ in range(8)]
    recorded = TracedCall(call)

    @torch.inference_mode()
    def work(each: tuple[Any, Any]) -> Any:
        return recorded(*each)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(work, given))
    assert call.times == RECORDED
    assert all(torch.equal(one, call(*each)) for one, each in zip(made, given, strict=True))


def test_a_torch_that_records_nothing_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(torch.jit, "trace")
    call = Counted()
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        assert TracedCall(call)(*inputs(3)).shape == (3, 512)
    assert call.times == 2
    assert "run in Python" in caplog.text


def test_a_call_that_branches_by_values_is_made_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def call(x: Any) -> Any:
        return x * 2 if x.min() >= 0 else x

    recorded = TracedCall(call)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        assert recorded(torch.ones(1, 8)).tolist() == [[2.0] * 8]
        assert recorded(-torch.ones(1, 8)).tolist() == [[-1.0] * 8]
    assert "other results" in caplog.text


def test_a_call_that_branches_by_times_is_made_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def call(x: Any, t: Any) -> Any:
        return x * 2 if t.max() > 500 else x

    recorded = TracedCall(call)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        assert recorded(torch.ones(1, 2), torch.tensor([999.0])).tolist() == [[2.0, 2.0]]
        assert recorded(torch.ones(1, 2), torch.tensor([9.0])).tolist() == [[1.0, 1.0]]
    assert "other results" in caplog.text


def test_a_call_that_the_tracer_refuses_is_made_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def call(x: Any) -> Any:
        return x + (x.shape[0] if not torch.jit.is_tracing() else _refuse())

    def _refuse() -> int:
        raise RuntimeError("this cannot be traced")

    with caplog.at_level(logging.WARNING), torch.inference_mode():
        assert TracedCall(call)(torch.ones(2, 1)).tolist() == [[3.0], [3.0]]
    assert "cannot be traced" in caplog.text


def test_only_the_host_records() -> None:
    call = Counted()
    assert isinstance(select_device("cpu").traced(call), TracedCall)
    assert DevicePlacement(torch.device("meta"), torch.float32, RowParallel(1)).traced(call) is call
