"""Cached results of models: equal keys share one, and their bytes are bounded."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from models.runtime import remembered  # noqa: E402

pytestmark = pytest.mark.torch


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return torch.zeros(10), [torch.zeros(5)], {"mask": torch.ones(5, dtype=torch.bool)}, "text"


def test_equal_keys_share_a_result() -> None:
    known, make = remembered.Remembered(), Maker()
    assert known("a", make) is known("a", make)
    assert known("b", make) is not known("a", make)
    assert make.calls == 2
    known(None, make)
    known(None, make)
    assert make.calls == 4


def test_the_least_recently_used_is_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED_BYTES", 2 * (10 * 4 + 5 * 4 + 5))
    known, make = remembered.Remembered(), Maker()
    for key in ("a", "b", "a", "c", "a"):
        known(key, make)
    assert make.calls == 3
    known("b", make)
    assert make.calls == 4


def test_a_result_larger_than_the_bound_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED_BYTES", 1)
    known, make = remembered.Remembered(), Maker()
    for key in ("a", "a", "b", "b"):
        known(key, make)
    assert make.calls == 2
