"""What the bench stores: every figure with where, when and of what it was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from tests.bench import kit

pytestmark = pytest.mark.torch


def test_rows_keep_the_machine_and_weights_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(cpu: str, weights: str, *figures: kit.Figure, curve: Any = None) -> dict[str, Any]:
        monkeypatch.setattr(kit, "machine", lambda: {"cpu": cpu, "commit": "abc", "date": "2026-01-01"})
        kit.store(tmp_path / "results" / "some.json", list(figures), weights, curve)
        told: dict[str, Any] = json.loads((tmp_path / "results" / "some.json").read_text())
        return told

    one, two = kit.Figure("one", 1.0, at_most=2.0), kit.Figure("two", 3.0, at_most=2.0)
    stored("old", "a", one, two, curve=[{"n": 4.0}])
    told = stored("new", "b", two)
    rows = {row["name"]: row for row in told["figures"]}
    assert {name: (row["weights"], row["machine"].split(",")[0]) for name, row in rows.items()} == {
        "one": ("a", "old"),
        "two": ("b", "new"),
    }
    assert [rows[name]["reached"] for name in ("one", "two")] == [True, False]
    assert (told["curve"]["weights"], told["curve"]["points"]) == ("a", [{"n": 4.0}])
    assert {m["cpu"] for m in told["machines"].values()} == {"old", "new"}
    told = stored("new", "b", one, curve=[{"n": 8.0}])
    assert {m["cpu"] for m in told["machines"].values()} == {"new"}, "machines that no row is of are forgotten"
