"""Scorers beside the main one: which serve together, and how they load."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from pydantic import ValidationError

from app.domain import Ranking, ScorerUse
from app.engine.protocols import Engine, PanelScorer
from app.service.ranking.ensemble import Ensembles
from app.service.ranking.panel_scores import Judgeable
from app.settings import Settings
from models import registry
from models.ensembles import check_names, checked
from models.errors import ModelUnsupported
from models.load_options import LoadOptions
from models.protocols import ScorerInfo, embeds
from models.synthetic.generator import FakeGenerator
from models.synthetic.members import ColourJudge, RandomFeatureScorer
from models.synthetic.scorer import FakeScorer


def test_members_and_referee_load_by_name() -> None:
    options = LoadOptions(scorers=("fake-2", "fake-judge"), referee="fake-3")
    models = registry.load_models("fake", "fake", options=options)
    assert models.scorer.info.id == "fake"
    assert [(each.info.id, embeds(each)) for each in models.members] == [("fake-2", True), ("fake-judge", False)]
    assert models.referee is not None
    assert models.referee.info.id == "fake-3"
    plain = registry.load_models("fake", "fake")
    assert (plain.members, plain.referee) == ((), None)


@pytest.mark.parametrize(
    ("scorer", "options", "message"),
    [
        ("fake", LoadOptions(scorers=("fake",)), "'fake' is named twice"),
        ("fake", LoadOptions(scorers=("fake-2", "fake-2")), "'fake-2' is named twice"),
        ("fake", LoadOptions(referee="fake"), "'fake' also ranks"),
        ("fake", LoadOptions(scorers=("fake-2",), referee="fake-2"), "'fake-2' also ranks"),
        ("fake", LoadOptions(referee="layout:fake"), "'layout:fake' has the weights of 'fake', which ranks"),
        (
            "fake",
            LoadOptions(scorers=("layout:fake-2",), referee="fake-2"),
            "'fake-2' has the weights of 'layout:fake-2', which ranks",
        ),
        ("fake-judge", LoadOptions(), "only scores, and the main scorer must embed"),
    ],
)
def test_scorers_that_cannot_serve_together_are_refused(scorer: str, options: LoadOptions, message: str) -> None:
    with pytest.raises(ModelUnsupported, match=message):
        registry.load_models("fake", scorer, options=options)


def test_one_model_under_two_names_is_refused() -> None:
    class Renamed(RandomFeatureScorer):
        @property
        def info(self) -> ScorerInfo:
            return replace(super().info, id="renamed")

    generator, same = FakeGenerator(), (RandomFeatureScorer(), Renamed())
    with pytest.raises(ModelUnsupported, match="'fake-2' and 'renamed' are the same weights"):
        checked(generator, FakeScorer(), same, None)
    with pytest.raises(ModelUnsupported, match="'fake-2' and 'renamed' are the same weights"):
        checked(generator, FakeScorer(), same[:1], same[1])
    assert checked(generator, FakeScorer(), (RandomFeatureScorer(2), RandomFeatureScorer(3)), ColourJudge()).referee


def test_names_are_told_without_the_control_characters_of_a_terminal() -> None:
    name = "a\x1b[31m"
    for names, referee in (([name, name], ""), ([name], name)):
        with pytest.raises(ValueError, match="FRONTRUNNER") as caught:
            check_names(names, referee)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"scorer": "a", "referee": "a"},
        {"scorer": "a", "scorers": "b, c", "referee": "c"},
        {"scorer": "a", "scorers": "b,b"},
        {"scorer": "a", "scorers": "a"},
    ],
)
def test_settings_refuse_names_before_anything_loads(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"FRONTRUNNER_(REFEREE|SCORERS)"):
        Settings(**settings)  # type: ignore[arg-type]


def test_settings_pass_the_names_to_the_loaders() -> None:
    options = Settings(scorers="b/x, c", referee="d").load_options
    assert (options.scorers, options.referee) == (("b/x", "c"), "d")


@pytest.mark.parametrize(
    ("role", "why"),
    [
        (None, "it is not loaded on this replica"),
        ("referee", "it is the referee of this replica, which never ranks"),
    ],
)
def test_a_stored_scorer_that_cannot_rank_is_left_out_with_the_reason(role: str | None, why: str) -> None:
    """The ranking of a stored generation names it; this replica serves it otherwise or not at all."""
    main, other = FakeScorer().info, RandomFeatureScorer().info
    panel = (PanelScorer(main, "main"), *([PanelScorer(other, "referee")] if role else []))
    ensembles = Ensembles(cast(Engine, SimpleNamespace(scorer=main, panel=panel)))
    candidates = Judgeable([], np.zeros((0, 2), np.float32))
    ranking = Ranking(scorers=(ScorerUse(main.id), ScorerUse(other.id)))
    verdict = asyncio.run(ensembles.judge(candidates, "a cat", ranking, [], 1))
    (notice,) = verdict.notices
    assert (notice.code, notice.data["reason"]) == ("scorer_left_out", "not_loaded")
    assert notice.detail == f"the scorer {other.id!r} did not judge: {why}"


def test_the_synthetic_members_see_images_otherwise() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    orders = []
    for scorer in (FakeScorer(), RandomFeatureScorer(2), RandomFeatureScorer(3)):
        vectors = scorer.embed_images(pixels)
        assert vectors.shape == (40, scorer.info.dimensions)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        orders.append(tuple(np.argsort(vectors @ scorer.embed_texts(["a red apple"])[0].vector)))
    assert len(set(orders)) == 3
    red, blue = np.zeros((2, 1, 4, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    judge = ColourJudge()
    assert judge.score(red, "red")[0] > judge.score(blue, "red")[0]
    assert judge.score(red, "red").dtype == np.float32
