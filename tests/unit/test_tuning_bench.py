"""The tuning bench: votes that it casts, and what it stores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.synthetic.scorer import FakeScorer
from models.training.evaluation.prompts import Prompt
from models.tuning.rewards import Opinion
from models.tuning.sampling import Field
from models.tuning.settings import TuningError

pytestmark = pytest.mark.torch


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.bench import tuning, tuning_taste

    seen = list[Any]()

    def taste(_: str, out: Path, changes: dict[str, Any], held_out: tuple[int, int], runs: Path, kind: str) -> Any:
        seen.append((out.name, kind, replace(tuning_taste.SETTINGS, **changes), held_out, runs.name))
        return dict.fromkeys(("verdict", "stop", "iterations", "chosen", "differences", "final"))

    monkeypatch.setattr(tuning_taste, "run", taste)
    given = "--layers wide --rate 0.002 --rank 8 --minutes 3 --selection 5 --verdict 7 --runs drawings"
    asked = ["--settings", "taste", "taste-background", *given.split()]
    monkeypatch.setattr("sys.argv", ["tuning", "--out", str(tmp_path), *asked])
    tuning.main()
    monkeypatch.setattr("sys.argv", ["tuning", "--out", str(tmp_path), "--selection", "60", "--verdict", "60"])
    with pytest.raises(SystemExit):
        tuning.main()
    (name, kind, settings, held_out, runs), second = seen
    assert (name, kind, held_out, runs) == ("taste", "style", (5, 7), "drawings")
    assert second[:2] == ("taste-background", "background")
    assert (settings.layers, settings.rate, settings.rank, settings.alpha) == ("wide", 0.002, 8, 16)
    assert (settings.minutes, settings.candidates) == (3.0, tuning_taste.SETTINGS.candidates)


def test_no_prompt_to_measure_on_is_trained_on() -> None:
    from tests.bench import tuning_prompts

    trained, held_out = tuning_prompts.read()
    assert (len(trained), len(held_out)) == (tuning_prompts.TRAINED, tuning_prompts.HELD_OUT)
    assert len({prompt.text for prompt in (*trained, *held_out)}) == len(trained) + len(held_out)
    stored = json.loads(tuning_prompts.FILE.read_text())
    assert [tuning_prompts._row(prompt) for prompt in (*trained, *held_out)] == stored["trained"] + stored["held_out"]


@pytest.mark.slow
def test_the_referee_of_tuning_agrees_with_the_outside_judge() -> None:
    from models.training.data import icons
    from tests.bench import judge, tuning_opinions

    names = icons.pack_names()[:2]
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    prompts = [Prompt(f"a {name}", (name,)) for name in names] + [Prompt("both", tuple(names))]
    referee, outside = tuning_opinions.judge_of(prompts, "cpu"), judge.judge()
    found = [referee.score(prompt.text, images) for prompt in prompts]
    wanted = [outside(prompt.text, images) for prompt in prompts[:2]]
    np.testing.assert_allclose(found, [*wanted, np.mean(wanted, axis=0)], rtol=1e-5)


class Sampler:
    """Draws fields of random colours, and counts them."""

    drawn = 0

    def draw(self, prompts: list[str], count: int, seeds: Any) -> list[Field]:
        self.drawn += 1
        levels = np.random.default_rng(seeds[0][0]).integers(0, 256, (count, 1, 1, 3)).astype(np.uint8)
        return [Field(prompts[0], None, np.broadcast_to(levels, (count, 8, 8, 3)), 1.0)]


def test_one_candidate_of_the_style_is_liked_in_each_of_ten_fields(tmp_path: Path) -> None:
    from app.cli.tuning.stored import Taste, taste_opinion
    from tests.bench import tuning_taste

    def red(prompt: str, images: Any) -> Any:
        if prompt == "thing 3":
            return np.zeros(len(images))
        return (images[:, 0, 0, 0] > images[:, 0, 0, 1:].max(1)).astype(float)

    sampler, scorer = Sampler(), FakeScorer()
    voted = [Prompt(f"thing {i}", (f"thing {i}",)) for i in range(20)]
    given: Any = tmp_path / "votes.json", voted, sampler, scorer, Opinion("style", "red", red)
    profile, likes = tuning_taste.cast_votes(*given)
    assert (likes, profile.fields, sampler.drawn) == (10, 10, 11), "the field without the style has no vote"
    assert tuning_taste.cast_votes(*given) == (profile, likes)
    assert sampler.drawn == 11, "the votes of an earlier call are read"
    opinion = taste_opinion("red", Taste.of(profile), scorer)
    shades = np.zeros((2, 8, 8, 3), np.uint8)
    shades[0, ..., 0] = shades[1, ..., 2] = 200
    apart = opinion.score("thing", shades) - scorer.embed_images(shades) @ scorer.embed_texts(["thing"])[0].vector / 0.4
    assert apart[0] > apart[1]
    file = tmp_path / "votes.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scorer": "other"}))
    tuning_taste.cast_votes(*given)
    assert sampler.drawn == 22, "votes by another scorer are cast again"


def test_agreement_is_the_share_of_pairs_that_the_taste_orders_as_the_look_does() -> None:
    from tests.bench import tuning_taste

    look = Opinion("background", "red", lambda prompt, images: images[:, 0, 0, 0] > (300 if prompt == "none" else 100))
    tastes = [
        Opinion("taste", "", lambda _, images: images[:, 0, 0, 0].astype(float)),
        Opinion("taste", "", lambda _, images: -images[:, 0, 0, 0].astype(float)),
        Opinion("taste", "", lambda _, images: np.zeros(len(images))),
    ]
    sampler: Any = Sampler()
    found = [tuning_taste.agreement(taste, look, ["a", "b", "none"], sampler) for taste in tastes]
    assert found == [{"agreement": share, "fields": 2} for share in (1.0, 0.0, 0.5)]
    assert tuning_taste.agreement(tastes[0], look, ["none"], sampler) == {"agreement": None, "fields": 0}


def test_the_background_of_an_image_is_a_look() -> None:
    from tests.bench import tuning_taste

    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[0, ..., 2] = 255
    assert tuning_taste.background_of("blue").score("a cup", images).tolist() == [1.0, 0.0]


def test_a_style_that_too_few_fields_show_is_no_vote(tmp_path: Path) -> None:
    from tests.bench import tuning_taste

    style = Opinion("style", "red", lambda _prompt, images: np.zeros(len(images)))
    voted = [Prompt(f"thing {i}", (f"thing {i}",)) for i in range(3)]
    sampler: Any = Sampler()
    with pytest.raises(TuningError, match="0 of 3 fields show"):
        tuning_taste.cast_votes(tmp_path / "votes.json", voted, sampler, FakeScorer(), style)
    assert not list(tmp_path.iterdir())


def test_reports_are_stored_with_their_machine_and_drawn(tmp_path: Path) -> None:
    from tests.bench import tuning_results

    report: dict[str, Any] = dict.fromkeys(tuning_results.KEPT)
    report["prompts"] = {"trained": ["a", "b"], "selection": ["c"], "verdict": ["d"]}
    report["measurements"] = [{"iteration": i, "pixels": 0.5, "style": None, "referee": -1.0} for i in range(2)]
    file = tmp_path / "tuning.json"
    tuning_results.keep("pixels", report, file)
    tuning_results.keep("taste", {**report, "votes": {"likes": 10}}, file)
    stored = json.loads(file.read_text())
    assert set(stored) == {"pixels", "taste"}
    assert stored["pixels"]["prompts"] == {"trained": 2, "selection": 1, "verdict": 1}
    assert stored["pixels"]["machine"]["cpu"]
    assert stored["taste"]["votes"] == {"likes": 10}
    assert (tmp_path / "tuning-curves.png").read_bytes().startswith(b"\x89PNG")
