"""Opinions of reward tuning, prompts of its parts, its verdict and its settings, without a pipeline."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.scorers.deferred import DeferredScorer
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from models.tuning import stops
from models.tuning.learning.losses import NoisyRows, distillation_loss, nft_loss
from models.tuning.measures import Measured, best_of, difference
from models.tuning.pictures import draw_sheet
from models.tuning.rewards import check_independent, distillation_weights, opinion_of, optimality, without_weights
from models.tuning.settings import TuningError, TuningSettings
from models.tuning.task import Prompts
from tests.contract.tuning_kit import contrast, opinion, redness

pytestmark = pytest.mark.torch


def test_differences_count_the_pairs_with_two_numbers() -> None:
    assert difference([1.0, None, 2.0], [0.0, 1.0, None]) == {"mean": 1.0, "interval": [1.0, 1.0], "prompts": 1}


def test_a_result_that_breaks_a_rule_is_not_accepted() -> None:
    base = Measured(0, [0.0] * 8, [0.0] * 8, [0.0] * 8, [1.0] * 8, 0, 16)
    better = replace(base, iteration=1, reward=[1.0] * 8, referee=[1.0] * 8, best=[1.0] * 8)
    assert stops.verdict(base, better)["verdict"] == "accept"
    assert stops.verdict(base, better, is_sound=False)["verdict"] == "reject"
    assert stops.verdict(base, replace(better, diversity=[0.8] * 8))["verdict"] == "reject"
    assert stops.verdict(base, replace(better, flagged=8))["verdict"] == "reject"
    assert "diversity within prompts is 0.80" in stops.verdict(base, replace(better, diversity=[0.8] * 8))["why"]
    same = stops.verdict(base, replace(better, referee=[0.0] * 8))
    assert (same["verdict"], same["why"]) == ("reject", "the referee's interval for a random pick is not above 0")
    few = [replace(each, reward=[0.0] * 5, referee=each.referee[:5], best=each.best[:5]) for each in (base, better)]
    assert stops.verdict(*few)["verdict"] == "reject", "five prompts all rise by chance in one of 32 runs"
    assert "the verdict has 5 prompts, and at least 6 are required" in stops.verdict(*few)["why"]


def test_a_taste_is_accepted_if_it_is_met_and_the_referee_does_not_fall() -> None:
    base = Measured(0, [0.0] * 8, [0.0] * 8, [0.0] * 8, [1.0] * 8, 0, 16)
    even = [0.1, -0.1] * 4
    met = replace(base, iteration=1, reward=[1.0] * 8, referee=even, best=even)
    found = stops.verdict(base, met, personal=True)
    assert (found["verdict"], found["why"]) == (
        "accept",
        "intervals: the taste's is above 0, the referee's are not below; no rule is broken",
    )
    assert stops.verdict(base, met)["verdict"] == "reject", "another reward must convince the referee"
    unmet = stops.verdict(base, replace(met, reward=even), personal=True)
    assert (unmet["verdict"], unmet["why"]) == ("reject", "the taste's interval for a random pick is not above 0")
    worse = stops.verdict(base, replace(met, referee=[-0.1] * 8), personal=True)
    assert worse["verdict"] == "reject"
    assert "the referee's interval for a random pick is below 0" in worse["why"]
    assert stops.verdict(base, met, is_sound=False, personal=True)["verdict"] == "reject"


def test_each_rule_stops_at_its_own_limit() -> None:
    base = Measured(0, [0.0] * 4, [0.0] * 4, [0.0] * 4, [1.0] * 4, 1, 100)
    rises = replace(base, iteration=1, reward=[1.0] * 4)
    falls = [-0.1, -0.3, 0.1, -0.1]  # mean -0.1, one standard error 0.0816
    assert stops.find_stop([base]) is stops.find_stop([base, rises]) is None

    def rule(*history: Measured) -> str | None:
        found = stops.find_stop(history)
        return None if found is None else found.rule

    assert rule(base, replace(rises, referee=falls)) == "referee"
    assert rule(base, replace(rises, referee=[-0.1, -0.3, 0.2, -0.1])) is None, "within one standard error"
    assert rule(base, replace(rises, reward=[0.0] * 4, referee=falls)) is None, "the reward does not rise"
    better = replace(rises, referee=[1.0] * 4)
    assert rule(base, better, replace(rises, reward=[2.0] * 4)) == "referee", "below its best, not below the base"
    assert rule(base, replace(rises, best=falls)) == "best"
    assert rule(base, replace(rises, diversity=[0.89] * 4)) == "diversity"
    assert rule(base, replace(rises, flagged=5)) is None
    assert rule(base, replace(rises, flagged=6)) == "artefacts"


def test_the_sound_measurement_with_the_highest_referee_is_chosen() -> None:
    base = Measured(0, [0.0] * 4, [0.0] * 4, [0.0] * 4, [1.0] * 4, 0, 100)
    one, two = (replace(base, iteration=i, reward=[i] * 4, referee=[r] * 4) for i, r in ((1, 2.0), (2, 3.0)))
    assert stops.choose([base]) is None
    assert stops.choose([base, one, two]) == 2
    assert stops.choose([base, one, two, replace(two, diversity=[0.5] * 4, referee=[9.0] * 4)]) == 2
    assert stops.choose([base, replace(one, diversity=[0.5] * 4)]) is None


def test_the_best_is_one_that_both_have_scored() -> None:
    nan = np.nan
    assert best_of(np.array([1.0, 3.0, 2.0]), np.array([0.0, nan, 5.0])) == 2
    assert best_of(np.array([nan, 1.0]), np.array([1.0, 1.0])) == 1
    assert best_of(np.array([nan, 1.0]), np.array([1.0, nan])) is None


def test_optimality_is_normalised_and_votes_override() -> None:
    assert list(optimality(np.array([1.0, 2.0, 3.0]), {})) == pytest.approx([0.3775, 0.5, 0.6225], abs=1e-4)
    assert list(optimality(np.array([1.0, 2.0, 3.0]), {0: True, 2: False})) == pytest.approx([1.0, 0.5, 0.0])
    weights = distillation_weights(np.array([0.0, 1.0, 2.0, 9.0]), {1: True, 3: False})
    assert list(weights > 0) == [False, True, False, False]


def test_the_loss_pulls_to_good_candidates_and_pushes_from_bad_ones() -> None:
    import torch

    ones = torch.ones(3, 1, 1, 1)
    rows = NoisyRows(2 * ones, ones, 0.25 * ones, ones, torch.tensor([1.0, 0.0, 0.5]))  # the estimate is 0.5 + m
    tuned = torch.zeros(3, 1, 1, 1, requires_grad=True)
    loss = nft_loss(rows, tuned, torch.zeros(3, 1, 1, 1), beta=0.5)
    assert loss.tolist() == [1.0, 1.0, 1.0]  # 0.5 squared, by its mean error 0.5, by beta
    loss.sum().backward()
    assert tuned.grad is not None
    assert tuned.grad.flatten().tolist() == [-2.0, 2.0, 0.0], "towards the clean latent, away from it, nowhere"
    weights = replace(rows, value=torch.tensor([2.0, 0.0, 1.0]))
    assert distillation_loss(weights, tuned.detach()).tolist() == [1.0, 0.0, 0.5]


def test_reward_and_referee_must_differ() -> None:
    red = opinion("redness", redness)
    with pytest.raises(TuningError, match="would confirm itself"):
        check_independent(red, opinion("redness", contrast))
    with pytest.raises(TuningError, match="would confirm itself"):
        check_independent(red, replace(opinion("other", contrast), revision=red.revision))


def test_models_that_share_weights_are_refused(tmp_path: Path) -> None:
    import torch

    one = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    copied = torch.nn.Linear(16, 16)
    copied.load_state_dict(one[1].state_dict())
    pair = [replace(opinion(name, redness), models=(each,)) for name, each in (("a", one), ("b", copied))]
    with pytest.raises(TuningError, match="share weights"):
        check_independent(*pair)
    check_independent(pair[0], replace(pair[1], models=(torch.nn.Linear(16, 16),)))
    scales = [torch.nn.LayerNorm(64), torch.nn.LayerNorm(64)]
    for each in scales:
        torch.nn.init.normal_(each.weight, 1.0, 1e-3)
    check_independent(*(replace(each, models=(scale,)) for each, scale in zip(pair, scales, strict=True)))


def test_a_deferred_scorer_is_loaded_to_compare_its_weights() -> None:
    import torch

    class Scorer(FakeScorer):
        def __init__(self, layer: Any, revision: str) -> None:
            super().__init__()
            vars(self).update(_info=replace(self.info, id=revision, revision=revision), model=layer)

    Scorer.__module__ = "models.scorers.tests"
    layer, loads = torch.nn.Linear(16, 16), list[str]()

    def deferred(layer: Any, revision: str) -> DeferredScorer:
        made = Scorer(layer, revision)

        def load() -> FakeScorer:
            loads.append(revision)
            return made

        return DeferredScorer(made.info, load)

    reward = opinion_of(Scorer(layer, "one"))
    half = torch.nn.Linear(16, 16).bfloat16()
    half.load_state_dict(layer.state_dict())
    with pytest.raises(TuningError, match="share weights"):
        check_independent(reward, opinion_of(deferred(half, "two")))
    check_independent(reward, opinion_of(deferred(torch.nn.Linear(16, 16), "three")))
    assert loads == ["two", "three"]
    taste = replace(reward, id="taste:blog", revision="votes")
    with pytest.raises(TuningError, match="share weights"):
        check_independent(taste, opinion_of(deferred(torch.nn.Linear(16, 16), "one")))
    assert loads == ["two", "three"], "equal revisions need no loading"


def test_an_embedder_is_an_opinion_by_its_cosine() -> None:
    scorer = FakeScorer()
    made, images = opinion_of(scorer), np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    wanted = scorer.embed_images(images) @ scorer.embed_texts(["a boat"])[0].vector
    assert list(made.score("a boat", images)) == pytest.approx(list(wanted))


def test_opinions_read_prompts_without_the_weights_that_are_applied() -> None:
    asked = list[str]()

    def score(prompt: str, images: Any) -> Any:
        asked.append(prompt)
        return np.zeros(len(images))

    info, images = FakeGenerator().info, np.zeros((1, 8, 8, 3), np.uint8)
    for weights in ("applied", "unsupported"):
        without_weights(opinion("a", score), replace(info, prompt_weights=weights)).score("a (red:1.4) boat", images)
    assert asked == ["a red boat", "a (red:1.4) boat"]


def test_a_sheet_shows_prompts_of_any_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sheet(prompt: str) -> bytes:
        shown = {prompt: np.zeros((2, 8, 8, 3), np.uint8)}
        draw_sheet(tmp_path / "sheet.png", shown, shown)
        return (tmp_path / "sheet.png").read_bytes()

    assert sheet("красное яблоко") != sheet("зеленая машина")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert sheet("красное яблоко") == sheet("зеленая машина"), "without matplotlib no font has them"


def test_one_prompt_is_too_few() -> None:
    with pytest.raises(TuningError, match="1 different prompts are too few"):
        Prompts.split(["a boat", "a boat ", ""], 0)


def test_the_verdict_has_prompts_that_chose_nothing() -> None:
    split = Prompts.split(map(str, range(36)), 0)
    assert [len(part) for part in (split.trained, split.selection, split.verdict)] == [27, 3, 6]
    assert len({*split.trained, *split.selection, *split.verdict}) == 36
    assert split == Prompts.split(map(str, range(36)), 0) != Prompts.split(map(str, range(36)), 1)
    least = Prompts.split(map(str, range(8)), 0)
    assert [len(part) for part in (least.trained, least.selection, least.verdict)] == [4, 2, 2]


@pytest.mark.parametrize(
    "change",
    [
        *({"iterations": 0}, {"candidates": 1}, {"rate": 0.0}, {"decay": 1.0}, {"seed": -1}, {"steps": 0}),
        *({"minutes": 0.0}, {"minutes": np.nan}, {"guidance": -1.0}, {"guidance": np.nan}, {"kl": np.inf}),
    ],
)
def test_settings_have_limits(change: dict[str, Any]) -> None:
    with pytest.raises(TuningError, match=next(iter(change))):
        TuningSettings(**change)
