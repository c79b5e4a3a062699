"""Ensembles over HTTP.

Who judges, what is answered and stored, and what becomes of a scorer that fails.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from app.cli import app
from app.engine.ranking import ensemble
from models.errors import ScoringFailed
from models.protocols import Embedder, Embeddings, Models, Pixels, Scorer, ScorerInfo, ScoringInfo, TextEmbedding
from models.synthetic.members import ColourJudge, RandomFeatureScorer
from models.synthetic.scorer import FakeScorer
from tests.api.kit import is_problem, running
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

ALL = [{"name": "fake"}, {"name": "fake-2"}, {"name": "fake-judge"}]


class Counting(RandomFeatureScorer):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []
        self.texts: list[str] = []

    def embed_images(self, pixels: Pixels) -> Embeddings:
        self.images.append(len(pixels))
        return super().embed_images(pixels)

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        self.texts += texts
        return super().embed_texts(texts)


class Judge(ColourJudge):
    """Counts its images, and can be away or return NaN."""

    def __init__(self, *, remote: bool = False) -> None:
        self.seen: list[int] = []
        self.away: Exception | None = None
        self.blind = False
        self._remote = remote

    @property
    def info(self) -> ScoringInfo:
        return ScoringInfo("fake-judge", "1", "cpu", remote=self._remote)

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        self.seen.append(len(images))
        if self.away is not None:
            raise self.away
        scores = super().score(images, text)
        return scores * np.float32("nan") if self.blind else scores


class Panel:
    def __init__(self, tmp_path: Path, *, remote: bool = False, referee: Embedder | Scorer | None = None, **given: Any):
        self.main, self.second, self.judge = FakeScorer(), Counting(), Judge(remote=remote)
        members = (self.second, self.judge)
        self._run = running(
            tmp_path,
            load=lambda: Models(InstrumentedGenerator(), self.main, members=members, referee=referee),
            **given,
        )

    def __enter__(self) -> Panel:
        self.house = self._run.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._run.__exit__(None, None, None)

    def made(self, **ranking: Any) -> dict[str, Any]:
        return self.house.made(n_candidates=10, n=10, ranking=ranking)

    def reranked(self, made: dict[str, Any], **ranking: Any) -> dict[str, Any]:
        answer = self.house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": ranking, "n": 10})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel(tmp_path_factory.mktemp("panel")) as made:
        yield made


def codes(answer: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in answer["warnings"]]


def order(answer: dict[str, Any]) -> list[int]:
    return [one["index"] for one in answer["data"]]


def expected(answer: dict[str, Any], weights: dict[str, float], uncertainty: float = 0.5) -> NDArray[np.float64]:
    """The scores that the formula gives for the answered numbers, by index."""
    by_index = sorted(answer["data"], key=lambda one: one["index"])
    own = {name: np.asarray([one["scores"][name] for one in by_index]) for name in weights}
    return ensemble.combine(own, weights, uncertainty, range(len(by_index)))


def test_without_an_ensemble_nothing_changes_and_no_member_is_asked(panel: Panel, tmp_path: Path) -> None:
    seen = len(panel.second.images), len(panel.judge.seen)
    made = panel.made()
    assert (len(panel.second.images), len(panel.judge.seen)) == seen
    with running(tmp_path) as plain:
        other = plain.made(n_candidates=10, n=10)
    for one, same in zip(made["data"], other["data"], strict=True):
        for field in ("index", "score", "similarity", "softmax", "z_score", "scores"):
            assert one[field] == same[field]
    assert made["data"][0]["scores"] == {"fake": made["data"][0]["score"]}
    assert (made["agreement"], made["referee"], made["ranking"]["scorers"]) == (None, None, [])


def test_the_members_rank_together_and_every_number_is_told(panel: Panel) -> None:
    made = panel.made(scorers=ALL)
    alone = panel.made()
    weights = {"fake": 1.0, "fake-2": 1.0, "fake-judge": 1.0}
    scores = expected(made, weights)
    for one in made["data"]:
        assert set(one["scores"]) == set(weights)
        assert one["score"] == pytest.approx(scores[one["index"]])
    assert order(made) == np.argsort(-scores, kind="stable").tolist()
    assert made["agreement"] == pytest.approx(
        ensemble.agreement([np.asarray([one["scores"][name] for one in made["data"]]) for name in weights], range(10))
    )
    before = {one["index"]: one for one in alone["data"]}
    for one in made["data"]:  # the parts, and the main scorer's own score, stay what they were
        assert one["scores"]["fake"] == before[one["index"]]["score"]
        assert one["similarity"] == before[one["index"]]["similarity"]
    assert order(made) != order(alone)
    assert sum(one["softmax"] for one in made["data"]) == pytest.approx(1)
    assert made["ranking"]["scorers"] == [{"name": name, "weight": 1.0} for name in weights]
    stored = panel.house.client.get(f"/v1/generations/{made['id']}").json()
    assert stored["data"] == made["data"]


def test_the_main_scorer_alone_in_the_list_ranks_as_without_one(panel: Panel) -> None:
    alone = panel.made()
    for scorers in ([{"name": "fake", "weight": 3}], [{"name": "fake"}, {"name": "fake-2", "weight": 0}]):
        made = panel.made(scorers=scorers)
        assert [one["score"] for one in made["data"]] == [one["score"] for one in alone["data"]]
        assert order(made) == order(alone)
    assert set(made["data"][0]["scores"]) == {"fake", "fake-2"}


def test_ranking_again_by_weights_asks_no_scorer_and_follows_the_formula(panel: Panel) -> None:
    made = panel.house.made(n_candidates=64, n=64, ranking={"scorers": ALL})
    images, texts, judged = len(panel.second.images), len(panel.second.texts), len(panel.judge.seen)
    weights = {"fake": 0.2, "fake-2": 1.0, "fake-judge": 3.0}
    scorers = [{"name": name, "weight": weight} for name, weight in weights.items()]
    answer = panel.house.post(
        f"/v1/generations/{made['id']}/rerank", json={"ranking": {"scorers": scorers, "uncertainty": 1}, "n": 64}
    ).json()
    assert (len(panel.second.images), len(panel.second.texts), len(panel.judge.seen)) == (images, texts, judged)
    scores = expected(answer, weights, 1.0)
    assert [one["score"] for one in answer["data"]] == pytest.approx(sorted(scores, reverse=True))
    assert order(answer) != order(made)
    again = panel.reranked(made)  # omitted keeps
    assert [one["scores"] for one in again["data"]] == [one["scores"] for one in made["data"]][:10]
    cleared = panel.reranked(made, scorers=None)
    assert cleared["ranking"]["scorers"] == []
    assert set(cleared["data"][0]["scores"]) == {"fake"}


def test_another_prompt_uses_stored_embeddings_and_drops_numbers_of_one_text(panel: Panel) -> None:
    made = panel.made(scorers=ALL)
    images, judged = len(panel.second.images), len(panel.judge.seen)
    green = panel.reranked(made, prompt="a green tree", negatives=[{"text": "red"}])
    assert (len(panel.second.images), len(panel.judge.seen)) == (images, judged)
    (left,) = [w for w in green["warnings"] if w["code"] == "scorer_left_out"]
    assert (left["scorer"], left["reason"]) == ("fake-judge", "text_changed")
    assert set(green["data"][0]["scores"]) == {"fake", "fake-2"}
    assert green["data"][0]["scores"]["fake-2"] != made["data"][0]["scores"]["fake-2"]


def test_a_generation_without_members_says_what_it_lacks(panel: Panel) -> None:
    made = panel.made()
    again = panel.reranked(made, scorers=ALL)
    reasons = {w["scorer"]: w["reason"] for w in again["warnings"] if w["code"] == "scorer_left_out"}
    assert reasons == {"fake-2": "not_stored", "fake-judge": "text_changed"}
    assert order(again) == order(made)


@pytest.mark.parametrize(
    ("ranking", "pointer"),
    [
        ({"scorers": [{"name": "unknown"}]}, "#/ranking/scorers/0/name"),
        ({"scorers": [{"name": "fake"}, {"name": "fake"}]}, "#/ranking/scorers/1/name"),
        ({"scorers": [{"name": "fake", "weight": 0}, {"name": "fake-2", "weight": 0}]}, "#/ranking/scorers"),
        ({"scorers": [{"name": "fake", "weight": -1}]}, "#/ranking/scorers/0/weight"),
        ({"scorers": []}, "#/ranking/scorers"),
        ({"scorers": [{"name": "fake", "share": 1}]}, "#/ranking/scorers/0/share"),
        ({"uncertainty": -0.1}, "#/ranking/uncertainty"),
        ({"cascade": 0}, "#/ranking/cascade"),
        ({"contrast": "yes"}, "#/ranking/contrast"),
    ],
)
def test_bad_ensembles_are_refused(panel: Panel, ranking: dict[str, Any], pointer: str) -> None:
    body = is_problem(panel.house.post(json={"prompt": "a boat", "ranking": ranking}), 422, "invalid_request", pointer)
    if ranking == {"scorers": [{"name": "unknown"}]}:
        assert "'fake' or 'fake-2' or 'fake-judge'" in body["detail"] + str(body["errors"])


@pytest.mark.parametrize("remote", [False, True])
def test_a_scorer_that_fails_is_left_out_and_told(tmp_path: Path, remote: bool) -> None:
    with Panel(tmp_path, remote=remote) as panel:
        good = panel.made(scorers=ALL)
        assert "scorer_left_out" not in codes(good)
        for failure, reason in (
            (ScoringFailed("timeout", "the endpoint gave no answer within 5 s."), "timeout"),
            (RuntimeError("boom"), "failed"),
        ):
            panel.judge.away = failure
            made = panel.made(scorers=ALL)
            (left,) = [w for w in made["warnings"] if w["code"] == "scorer_left_out"]
            assert (left["scorer"], left["reason"]) == ("fake-judge", reason)
            assert "boom" not in left["detail"]
            assert set(made["data"][0]["scores"]) == {"fake", "fake-2"}
        panel.judge.away, panel.judge.blind = None, True
        (left,) = [w for w in panel.made(scorers=ALL)["warnings"] if w["code"] == "scorer_left_out"]
        assert left["reason"] == "not_a_number"


def test_a_member_that_embeds_nothing_usable_is_left_out(tmp_path: Path) -> None:
    with Panel(tmp_path) as panel:
        embed = panel.second.embed_images

        def blind(pixels: Pixels) -> Embeddings:
            vectors = embed(pixels)
            vectors[0] = np.nan
            return vectors

        panel.second.embed_images = blind  # type: ignore[method-assign]
        made = panel.made(scorers=[{"name": "fake"}, {"name": "fake-2"}])
        (left,) = [w for w in made["warnings"] if w["code"] == "scorer_left_out"]
        assert (left["scorer"], set(made["data"][0]["scores"])) == ("fake-2", {"fake"})

        def broken(pixels: Pixels) -> Embeddings:
            raise RuntimeError("boom")

        panel.second.embed_images = broken  # type: ignore[method-assign]
        made = panel.made(scorers=[{"name": "fake-2"}])
        assert [w["scorer"] for w in made["warnings"] if w["code"] == "scorer_left_out"] == ["fake-2"]
        assert order(made) == order(panel.made())


def test_contrast_subtracts_near_misses(panel: Panel) -> None:
    asked = {"prompt": "a red apple on a white background", "n_candidates": 10, "n": 10, "seed": 7, "steps": 4}
    plain = panel.house.post(json=asked).json()
    made = panel.house.post(json={**asked, "ranking": {"contrast": True}}).json()
    misses = made["ranking"]["near_misses"]
    assert "a white apple on a red background" in misses
    before = {one["index"]: one for one in plain["data"]}
    for one in made["data"]:
        assert one["score"] == pytest.approx(before[one["index"]]["score"] - one["contrast"], abs=1e-6)
        assert one["similarity"] == before[one["index"]]["similarity"]
    both = panel.house.post(json={**asked, "ranking": {"contrast": True, "scorers": ALL[:2]}}).json()
    assert both["data"][0]["scores"]["fake"] == pytest.approx(
        next(o["score"] for o in made["data"] if o["index"] == both["data"][0]["index"])
    )
    without = panel.made(contrast=True, prompt="boat")
    assert "contrast_without_near_misses" in codes(without)
    assert without["data"][0]["contrast"] == 0


def test_uploads_are_ranked_by_the_ensemble(panel: Panel) -> None:
    made = panel.made()
    images = [
        ("images", (f"{i}.png", panel.house.client.get(f"/v1/generations/{made['id']}/images/{i}").content))
        for i in range(9)
    ]
    answer = panel.house.client.post(
        "/v1/rank",
        data={
            "prompt": "a red apple",
            "ranking": '{"scorers": [{"name": "fake"}, {"name": "fake-2"}, {"name": "fake-judge"}]}',
        },
        files=images,
    ).json()
    weights = {"fake": 1.0, "fake-2": 1.0, "fake-judge": 1.0}
    scores = expected(answer, weights)
    assert order(answer) == np.argsort(-scores, kind="stable").tolist()
    assert answer["agreement"] is not None


def test_references_count_for_every_embedding_scorer(panel: Panel) -> None:
    made = panel.made(scorers=ALL[:2])
    worst = made["data"][-1]["index"]
    liked = panel.reranked(made, references=[{"generation": made["id"], "index": worst, "weight": 10}])
    assert codes(liked).count("references_left_out") == 0
    assert liked["data"][0]["index"] == worst
    plain = panel.made()
    told = panel.reranked(made, references=[{"generation": plain["id"], "index": 1, "weight": 1}])
    assert "references_left_out" in codes(told)


def test_an_uploaded_reference_is_embedded_by_the_scorers_of_the_ranking(panel: Panel) -> None:
    file = panel.house.client.get(f"/v1/generations/{panel.made()['id']}/images/0.png").content
    liked = [{"image": base64.b64encode(file).decode(), "weight": 1}]
    seen = len(panel.second.images)
    panel.made(references=liked)
    assert len(panel.second.images) == seen
    panel.made(references=liked, scorers=ALL[:1])
    assert len(panel.second.images) == seen
    made = panel.made(references=liked, scorers=ALL[:2])
    assert panel.second.images[seen] == 1, "the reference, before the candidates"
    assert "references_left_out" not in codes(made)


def test_all_members_can_be_the_default(tmp_path: Path) -> None:
    with Panel(tmp_path, ensemble=True) as panel:
        made = panel.made()
        assert [use["name"] for use in made["ranking"]["scorers"]] == ["fake", "fake-2", "fake-judge"]
        assert panel.made(scorers=[{"name": "fake"}])["ranking"]["scorers"] == [{"name": "fake", "weight": 1.0}]
        listed = panel.house.client.get("/v1/models").json()
    assert listed["ensemble"] is True
    assert [(one["id"], one["role"], one["embeds"]) for one in listed["scorers"]] == [
        ("fake", "main", True),
        ("fake-2", "member", True),
        ("fake-judge", "member", False),
    ]


def test_scorers_that_disagree_are_told(tmp_path: Path) -> None:
    class Contrary(FakeScorer):
        """Prefers what the main scorer likes least."""

        @property
        def info(self) -> ScorerInfo:
            return replace(super().info, id="contrary")

        def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
            return [replace(one, vector=-one.vector) for one in super().embed_texts(texts)]

    def load() -> Models:
        return Models(InstrumentedGenerator(), FakeScorer(), members=(Contrary(),))

    with running(tmp_path, load=load) as house:
        made = house.made(n_candidates=10, n=10, ranking={"scorers": [{"name": "fake"}, {"name": "contrary"}]})
        off = {"scorers": [{"name": "fake"}, {"name": "contrary", "weight": 0}]}
        alone = house.client.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": off, "n": 10}).json()
    assert "scorers_disagree" not in [w["code"] for w in alone["warnings"]], "one of them does not rank"
    assert made["agreement"] == alone["agreement"] == pytest.approx(-1)
    (told,) = [w for w in made["warnings"] if w["code"] == "scorers_disagree"]
    assert told["limit"] == pytest.approx(ensemble.chance_agreement(10))


def test_the_command_line_names_scorers_and_shows_every_number(panel: Panel, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        found = CliRunner().invoke(app, [*arguments, "--url", panel.house.url], env={"COLUMNS": "160"})
        assert found.exit_code == code, found.output
        return found.output

    told = run("generate", "a red apple", "-c", "9", "--steps", "4", "--scorer", "fake-2=0.5", "--scorer", "fake",
               "--out", str(tmp_path / "out"))  # fmt: skip
    assert "fake-2" in told
    made = panel.made(scorers=ALL[:2])
    assert "fake-2" in run("rerank", made["id"], "--scorer", "fake-2=3", "--scorer", "fake=0")
    file = str(tmp_path / "out" / "best-01.png")
    assert "fake-2" in run("rank", "a red apple", file, file, "--scorer", "fake", "--scorer", "fake-2=2")
    for wrong in ("fake-2=-1", "fake-2=x", "fake-2=nan"):
        assert "NAME=WEIGHT" in run("rerank", made["id"], "--scorer", wrong, code=1)
    assert "no scorer is named" in run("rerank", made["id"], "--scorer", "unknown", code=1)
