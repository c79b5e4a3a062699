"""Figures of the benches of ensembles and of steering, from fields that were made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.protocols import GeneratorInfo, Styles
from models.synthetic.generator import FakeGenerator
from tests.architecture import measured
from tests.bench import ensemble_figures, ensembles, fields, kit, steering
from tests.bench.ensemble_figures import Field

pytestmark = pytest.mark.slow


def field(candidates: int, seed: int, *, gamed: float = 0.0, slow: float = 0.6) -> Field:
    """Two members with errors of their own; with `gamed` the main scorer alone sees rare flattering artefacts."""
    draw = np.random.default_rng(seed)
    truth, errors = draw.standard_normal(candidates), draw.standard_normal((2, candidates))
    artefact = gamed * (draw.random(candidates) < 0.02)
    scores = {"main": truth + errors[0] + artefact, "other": truth + errors[1]}
    seconds = {"sampling": 10.0, "other": slow}
    return Field("a boat", "main", (), scores, scores, truth - artefact, np.where(truth > 0, 1.0, 0.0), seconds)


def test_a_second_opinion_helps_also_for_equal_seconds() -> None:
    found = ensemble_figures.paired([field(17, seed) for seed in range(300)], 16)
    assert found["seconds_with_members"] == pytest.approx(1.06)
    assert found["candidates_in_equal_seconds"] == 17
    way = found["over_the_main_scorer"]["ensemble, uncertainty 0"]
    assert way["other_winner"] > 50
    for against in ("equal_candidates", "equal_seconds"):
        assert way[against]["judged"]["low"] > 0
    slow = ensemble_figures.paired([field(32, seed, slow=10.0) for seed in range(300)], 16)
    assert slow["candidates_in_equal_seconds"] == 32
    way = slow["over_the_main_scorer"]["ensemble, uncertainty 0"]
    assert way["equal_seconds"]["judged"]["mean"] < way["equal_candidates"]["judged"]["mean"] - 0.05
    same = found["over_the_main_scorer"]["contrast"]
    assert same["other_winner"] == 0
    assert same["equal_candidates"]["pixels"] == {"mean": 0, "low": 0, "high": 0}


def test_a_gamed_scorer_falls_with_more_candidates_and_an_ensemble_less() -> None:
    parts = {(place, 64 * i): field(64, 10 * place + i, gamed=4.0) for place in range(20) for i in range(4)}
    found = ensemble_figures.curves(parts)
    assert found["candidates"] == [4, 16, 64, 256]
    alone, both = (found["ways"][way] for way in ("alone", "ensemble, uncertainty 0.5"))
    assert alone["fall"]["interval"][0] > 0
    assert alone["best_at"] < 256
    assert both["value"][-1] > alone["value"][-1]


def test_a_cascade_asks_dear_scorers_about_the_best_only() -> None:
    scores = {"main": np.arange(16.0), "dear": np.where(np.arange(16) == 3, 99.0, -np.arange(16.0))}
    one = Field("x", "main", ("dear",), scores, scores, np.zeros(16), np.zeros(16), {"sampling": 1.0, "dear": 1.0})
    chosen = ensemble_figures.winners(one)
    assert chosen["ensemble, uncertainty 0"] == 3
    assert chosen["ensemble, cascade"] >= 12


def test_without_dear_scorers_a_cascade_asks_the_other_members() -> None:
    scores = {"main": np.arange(16.0), "other": np.where(np.arange(16) == 3, 99.0, -np.arange(16.0))}
    one = Field("x", "main", (), scores, scores, np.zeros(16), np.zeros(16), {"sampling": 1.0, "other": 1.0})
    assert ensemble_figures.winners(one)["ensemble, cascade"] >= 12


def test_wordings_are_compared_with_the_prompt_alone() -> None:
    one = [field(16, seed) for seed in range(50)]
    better = [replace(each, judged=each.judged + 0.5) for each in one]
    found = ensemble_figures.variants({"one": one, "plain": better})["over_one_wording"]["plain"]
    assert found["winner"]["judged"]["mean"] == pytest.approx(0.5)
    assert found["random_pick"]["low"] == pytest.approx(0.5)
    assert found["winner"]["pixels"] == {"mean": 0, "low": 0, "high": 0}
    arms = ensembles.wordings("a boat on a red background", ["noto style"])
    assert {arm: len(set(texts)) for arm, texts in arms.items()} == {"one": 0, "presets": 4, "plain": 4, "styles": 2}
    assert all("a boat on a red background" in text for texts in arms.values() for text in texts)


def test_consecutive_prompts_are_sampled_together() -> None:
    assert list(steering.runs([0, 1, 2, 5, 6, 9], 2)) == [(0, 2), (2, 1), (5, 2), (9, 1)]
    assert list(steering.runs([], 8)) == []


def test_documents_state_stored_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    assert measured.ensembles() == measured.steering() == measured.NONE
    assert measured.verdicts().endswith(measured.NONE)
    here = {"machine": {"gpu": "a GPU", "cpu": "a CPU"}, "device": "cuda", "models": {}}
    fields = [field(32, seed) for seed in range(300)]
    parts = {(place, 0): field(64, place) for place in range(4)}
    made = {
        "paired": here | ensemble_figures.paired(fields, 16),
        "large": here | ensemble_figures.curves(parts),
        "variants": here | ensemble_figures.variants({"one": fields, "plain": fields}),
    }
    (tmp_path / "ensembles.json").write_text(json.dumps(made))
    said = measured.ensembles()
    assert said.count("(a GPU)") == 3
    assert "| ensemble, uncertainty 0 |" in said
    assert "| plain | +0.000 (+0.000 to +0.000) |" in said
    verdicts = measured.verdicts()
    assert "ensemble, uncertainty 0, for equal seconds: helps" in verdicts
    assert "variants, plain: no gain is shown" in verdicts
    assert verdicts.count("300 prompts)") == len(list(made["paired"]["over_the_main_scorer"])) + 1
    machine = {"cpu": "a CPU", "commit": "1", "date": "today"}
    kit.store(tmp_path / "steering.json", steering.figures(_steered()), machine, "1")
    lines = measured.steering().splitlines()
    assert lines[0].startswith("64 prompts with 8 candidates")
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| 0", "| 0.02", "| 0.05", "| 0.1", "| 0.4"]


def test_fields_survive_their_file() -> None:
    one = field(8, 0)
    back = Field.from_json(json.loads(json.dumps(one.to_json())))
    assert ensemble_figures.winners(back) == ensemble_figures.winners(one)
    assert back.to_json() == one.to_json()


def test_a_torn_line_is_cut_off_and_the_next_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert fields.read_rows(file) == []
    file.write_text('{"a": 1}\n{"a": 2')
    assert fields.read_rows(file) == [{"a": 1}]
    with file.open("a") as more:
        more.write('{"a": 3}\n')
    assert fields.read_rows(file) == [{"a": 1}, {"a": 3}]


def test_fields_of_other_prompts_or_sizes_are_measured_again(tmp_path: Path) -> None:
    file, rows = tmp_path / "ensembles.jsonl", []
    for place, (prompt, size) in enumerate([("a boat", 8), ("a car", 8), ("a boat", 4), ("a boat", 8)]):
        made = replace(field(size, place), prompt=prompt).to_json()
        rows.append({"part": "large", "models": "m", "place": place, "first": 0, "arm": "", "field": made})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = [[fields.Wanted(place, 0, "", "a boat", "white", 8, 0)] for place in range(3)]
    found = ensembles.stored_fields(file, "large", "m", wanted)
    assert set(found) == {(0, 0, "")}
    assert ensembles.stored_fields(file, "large", "other", wanted) == {}


def test_a_part_is_complete_with_all_prompts_and_candidates() -> None:
    for count, candidates, complete in ((20, 64, True), (19, 64, False), (20, 16, False)):
        wanted = [[fields.Wanted(i, 0, "", "a boat", "white", candidates, 0)] for i in range(count)]
        found = {(i, 0, ""): field(candidates, i) for i in range(count)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ensembles, "LARGE", 64)
            made = ensembles.result("large", wanted, found)
        assert made is not None
        assert made["complete"] is complete


def test_a_steered_prompt_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "steering.jsonl"
    rows = [
        {"weights": "w", "candidates": 8, "place": place, "prompt": prompt, "values": value}
        for place, prompt, value in ((1, "b", 1), (0, "a", 1), (0, "a", 2), (2, "c", 1), (1, "old", 3))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = replace(FakeGenerator().info, revision="w")
    found = steering.stored_rows(file, info, 8, ["a", "b"])
    assert [(row["place"], row["values"]) for row in found] == [(0, 2), (1, 1)]
    assert steering.stored_rows(file, replace(info, revision="other"), 8, ["a", "b"]) == []


def test_rows_of_prompts_that_were_spread_otherwise_are_measured_again(tmp_path: Path) -> None:
    file, texts = tmp_path / "steering.jsonl", ["a boat", "a boat in the old style"]
    styles = Styles(("old style", "new style"), frozenset({"style"}), spread=True)
    alone = replace(FakeGenerator().info, revision="w")
    spread = replace(alone, styles=styles)
    row = {"weights": "w", "candidates": 8}
    rows = [
        {**row, "place": 0, "prompt": texts[0], "values": "before"},
        {**row, "place": 1, "prompt": texts[1], "values": "before"},
        {**row, "place": 0, "values": "spread", **steering._key(spread, texts[0])},
    ]
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))

    def found(info: GeneratorInfo) -> list[str]:
        return [each["values"] for each in steering.stored_rows(file, info, 8, texts)]

    assert found(alone) == found(replace(alone, styles=styles.decided("off"))) == ["before", "before"]
    assert found(spread) == ["spread", "before"], "the second prompt names a style, so it is not spread"
    assert found(replace(spread, styles=replace(styles, phrases=("old style",)))) == ["before"]


def test_what_one_prompt_alone_shows_has_no_error_and_no_figure() -> None:
    rows = _steered()
    rows[0]["values"]["0"]["background"] = 1.0
    assert "background" not in steering.summary(rows)["0"]["mean"]
    assert "NaN" not in json.dumps([one.detail for one in steering.figures(rows)])


def _steered() -> list[steering.Row]:
    """Rows of 64 prompts whose levels differ far more than the scales do."""
    draw = np.random.default_rng(0)
    rows = []
    for place in range(64):
        level = 9 * draw.standard_normal()
        values = {"0": 0.0, "0.02": 0.1, "0.05": 0.3, "0.1": 0.4, "0.4": -0.1}
        referee = {scale: {"referee": level + gain + 0.02 * draw.standard_normal()} for scale, gain in values.items()}
        seconds = {scale: 1.0 if scale == "0" else 1.5 for scale in values}
        rows.append({"place": place, "candidates": 8, "values": referee, "seconds": seconds})
    return rows


def test_a_pause_in_a_run_of_steering_is_no_cost() -> None:
    rows = _steered()
    rows[7]["seconds"]["0.4"] = 900.0
    assert steering.summary(rows)["0.4"]["cost"] == pytest.approx(1.5)


def test_steering_is_compared_prompt_by_prompt() -> None:
    made = {one.name: one for one in steering.figures(_steered())}
    assert made["steering 0.05: outside judge, log-probability"].value == pytest.approx(0.3, abs=0.02)
    assert made["steering 0.05: device seconds"].value == pytest.approx(1.5)
    assert made["steering 0.05: the judge's 95 % interval begins at"].reached
    assert made["steering 0.4: the judge"].value == pytest.approx(-0.5, abs=0.02)
    assert made["steering 0.4: the judge"].reached
