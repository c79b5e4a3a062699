"""What the bench stores: every figure with where, when and of what it was measured. And what it divides by."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from tests.bench import kit

pytestmark = pytest.mark.torch


def _stored(path: Path, cpu: str, weights: str, *figures: kit.Figure, curve: Any = None, **more: Any) -> dict[str, Any]:
    here = {"cpu": cpu, "commit": "abc", "date": "2026-01-01", **more}
    kit.store(path, list(figures), here, weights, curve)
    told: dict[str, Any] = json.loads(path.read_text())
    return told | {"rows": {row["name"]: row for row in told["figures"]}}


def test_rows_keep_the_machine_and_weights_they_are_of(tmp_path: Path) -> None:
    path = tmp_path / "results" / "some.json"
    one, two = kit.Figure("one", 1.0, at_most=2.0), kit.Figure("two", 3.0, at_most=2.0, detail={"runs": 7})
    _stored(path, "old", "a", one, two, curve=[{"n": 4.0}])
    told = _stored(path, "new", "b", two)
    rows = told["rows"]
    assert {name: (row["weights"], row["machine"].split(",")[0], row["runs"]) for name, row in rows.items()} == {
        "one": ("a", "old", 1),
        "two": ("b", "new", 7),
    }
    assert [rows[name]["reached"] for name in ("one", "two")] == [True, False]
    assert (told["curve"]["weights"], told["curve"]["points"]) == ("a", [{"n": 4.0}])
    assert {m["cpu"] for m in told["machines"].values()} == {"old", "new"}
    told = _stored(path, "new", "b", one, curve=[{"n": 8.0}])
    assert {m["cpu"] for m in told["machines"].values()} == {"new"}, "machines that no row is of are forgotten"


def test_other_libraries_on_one_day_are_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    _stored(path, "cpu", "a", kit.Figure("one", 1.0), packages={"torch": "1"})
    for _ in range(2):
        told = _stored(path, "cpu", "a", kit.Figure("two", 1.0, weights="fakes"), packages={"torch": "2"})
    versions = {name: told["machines"][row["machine"]]["packages"]["torch"] for name, row in told["rows"].items()}
    assert versions == {"one": "1", "two": "2"}
    assert len(told["machines"]) == 2
    assert told["rows"]["two"]["weights"] == "fakes"


def test_what_an_older_row_does_not_tell_is_null(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    old = [{"name": "one", "value": 1.0}, {"name": "two", "value": 1.0, "detail": {"runs": 5}, "weights": "a"}]
    path.write_text(json.dumps({"figures": old, "curve": {"points": []}}))
    told = _stored(path, "cpu", "b", kit.Figure("three", 1.0))
    origins = {name: (row["runs"], row["weights"]) for name, row in told["rows"].items()}
    assert origins == {"one": (None, None), "two": (5, "a"), "three": (1, "b")}
    assert [row["machine"] for row in told["figures"]] == [None, None, "cpu, abc, 2026-01-01"]
    assert told["curve"] == {"points": [], "runs": None, "weights": None, "machine": None}


def test_the_machine_names_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kit.machine()["gpu"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert kit.machine()["gpu"] == "a card"
    assert set(kit.machine()) >= {"cpu", "cores", "python", "commit", "date", "packages"}


@pytest.mark.parametrize(
    ("asked", "kept"), [([], True), (["--runs", "7"], True), (["--runs", "4"], False), (["--prompts", "63"], False)]
)
def test_a_quick_look_takes_no_figures_place(
    asked: list[str], kept: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FRONTRUNNER_MAX_CANDIDATES", "FRONTRUNNER_MAX_QUEUED_CANDIDATES"):
        monkeypatch.setenv(name, "1024")  # the bench sets them where nobody has, for good
    from tests.bench import __main__ as bench
    from tests.bench import plots, server

    stored: list[Path] = []
    monkeypatch.setattr("sys.argv", ["bench", "--only", *asked])
    monkeypatch.setattr(bench, "Straight", lambda: None)
    monkeypatch.setattr(server, "service", nullcontext)
    monkeypatch.setattr(bench, "store", lambda path, *rest: stored.append(path))
    monkeypatch.setattr(plots, "draw", lambda path: None)
    bench.main()
    assert stored == ([kit.RESULTS / "pictogram.json"] if kept else [])
    assert ("not stored" in capsys.readouterr().out) is not kept


@pytest.mark.soak
def test_bare_calls_are_the_networks_alone() -> None:
    from app.domain import GenerationSpec
    from app.engine.config import EngineConfig
    from app.engine.core import EngineCore
    from models import registry
    from tests.bench import bare

    models = registry.load_models("pictogram", "pictogram", "cpu")
    core, info = EngineCore(models, EngineConfig(buckets=(4,))), models.generator.info
    parts: list[Any] = [models.generator, models.scorer]
    placed = [part._placement for part in parts]
    with bare.kept(models) as calls:
        shape = info.width, info.height
        core.submit(GenerationSpec("some", "a new red kite", "", 4, 1, *shape, 3, 2.0, info.sampler, 7), 0.0)
        while not core.idle:
            core.tick()
    assert {part: len(made) for part, made in calls.items()} == {
        "denoiser": 3,
        "decoder": 1,
        "image tower": 1,
        "text encoder": 3,  # the prompt for either model, and the empty negative
    }
    assert [part._placement for part in parts] == placed
    with torch.inference_mode():
        guided, decoded, embedded = (calls[part][0]() for part in ("denoiser", "decoder", "image tower"))
    assert (len(guided), len(decoded), len(embedded)) == (8, 4, 4)
    assert embedded.norm(dim=1).allclose(torch.ones(4))
    tower: Any = calls["image tower"][0]
    ready = tower.args[2]
    assert ready.shape[1] == 3
    assert ready.is_floating_point(), "resized and normalised before it is timed"
    assert all(took > 0 for took in bare.seconds(calls).values())
    assert all(len(made) <= 3 for made in calls.values()), "calls made again are not kept"
