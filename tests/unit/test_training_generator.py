"""The generator's figures by style, a run that resumes in the middle, and the comparison of guidance values."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from models.training import runs  # noqa: E402
from models.training.data import captions, dataset, texts  # noqa: E402
from models.training.data.scenes import SceneSampler  # noqa: E402
from models.training.evaluation import guidance  # noqa: E402
from models.training.trainers import generator  # noqa: E402
from tests.unit.test_training_data import NAMES  # noqa: E402
from tests.unit.test_training_mixture import MANY, SETS  # noqa: E402

pytestmark = pytest.mark.torch


def cached(folder: Path, count: int = 24) -> None:
    """A small data set of two styles, with random latents and text states."""
    (folder / "scenes").mkdir()
    scenes = SceneSampler(SETS, NAMES, ["noto", "fxemoji"], 1, MANY).draw(count)
    dataset.write_rows(scenes, folder / "scenes" / "generator.jsonl", captions.Captioner(1), negatives=False, seed=1)
    rows = dataset.read_rows(folder / "scenes" / "generator.jsonl")
    told = sorted({r["caption"] for r in rows} | {""})
    (folder / "scenes" / "generator.captions.json").write_text(json.dumps(told))
    rng = np.random.default_rng(0)
    np.save(
        folder / "scenes" / "generator.latents.npy", rng.standard_normal((count, 16, 8, 8), np.float32).astype("f2")
    )
    states = rng.standard_normal((len(told), texts.MAX_TOKENS, texts.WIDTH), np.float32).astype("f2")
    np.save(folder / "scenes" / "generator.states.npy", states)


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, samples: int, name: str) -> dict[str, Any]:
    """The weights after `samples` pictures; an existing run of that name is continued."""
    options = ["--runs", str(folder), "--name", name, "--batch", "4", "--widths", "16", "32", "--decay", "0"]
    monkeypatch.setattr("sys.argv", ["generator", *options, "--samples", str(samples)])
    generator.main()
    state: dict[str, Any] = torch.load(folder / name / "checkpoint.pt", weights_only=True)["modules"]
    return state


def test_the_figures_tell_every_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path)
    trained(tmp_path, monkeypatch, 8, "told")
    line = json.loads((tmp_path / "told" / "log.jsonl").read_text().splitlines()[-1])
    styles = {k: v for k, v in line.items() if k.startswith("fixed_")}
    assert set(styles) == {"fixed_noto", "fixed_fxemoji"}
    assert line["fixed"] == pytest.approx(np.mean(list(styles.values())), abs=1e-4)


@pytest.mark.soak
def test_a_run_that_resumes_ends_in_the_same_weights_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path)
    ends = []
    for name in ("one", "other"):
        half = trained(tmp_path, monkeypatch, 8, name)
        ends.append(trained(tmp_path, monkeypatch, 16, name))
        assert not all(torch.equal(half[k], v) for k, v in ends[-1].items())
    assert all(torch.equal(ends[0][k], v) for k, v in ends[1].items())


def test_rows_after_a_resume_are_those_that_were_left() -> None:
    whole, rest = runs.batches(20, 4, seed=1), runs.batches(20, 4, seed=1, skip=12)
    left = [next(whole) for _ in range(8)][3:]
    assert all(np.array_equal(a, next(rest)) for a in left)


def test_guidance_values_are_compared_prompt_by_prompt() -> None:
    base = [{"judge": -1.0}, {"judge": -3.0, "pixels": 0.5}, {"judge": -2.0, "pixels": 1.0}]
    other = [{"judge": -0.5}, {"judge": -2.5, "pixels": 1.0}, {"judge": -1.5, "pixels": 1.0}]
    found = guidance.summary(other, base)
    assert found["judge"] == {"mean": -1.5, "difference": 0.5, "error": 0.0}
    assert found["pixels"] == {"mean": 1.0, "difference": 0.25, "error": 0.25}
    assert guidance.summary(base, base)["judge"]["difference"] == 0


def test_an_interrupted_comparison_resumes_only_with_its_own_values(tmp_path: Path) -> None:
    out = tmp_path / "guidance.json"
    rows = {"1.25": [{"judge": -1.0}], "2": [{"judge": -0.5}]}
    out.write_text(json.dumps({"candidates": 8, "rows": rows}))
    assert guidance.kept(out, (1.25, 2.0), 8) == {1.25: rows["1.25"], 2.0: rows["2"]}
    assert guidance.kept(out, (1.25, 2.5), 8) == {1.25: [], 2.5: []}
    assert guidance.kept(out, (1.25, 2.0), 4) == {1.25: [], 2.0: []}
    assert guidance.kept(tmp_path / "none.json", (1.25,), 8) == {1.25: []}


def test_seeds_of_a_resumed_run_depend_on_what_it_has_seen(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    runs.add_arguments(parser, rate=0.1, batch=4, samples=32)
    args = parser.parse_args(["--runs", str(tmp_path)])
    runs.prepare(args)
    run = runs.Run(tmp_path / "run", args, torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 1)}))
    drawn = []
    for run.seen in (0, 8, 8):
        run.seeded()
        drawn.append(torch.randn(3))
    assert not drawn[0].equal(drawn[1])
    assert drawn[1].equal(drawn[2])
