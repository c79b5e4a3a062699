"""Calls of an ensemble's scorers: where they run, and what a failure leaves."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.engine.ranking import ensemble, scoring
from app.engine.ranking.near_misses import near_misses
from app.service.ranking import panel_scores
from models.errors import ScoringFailed
from models.protocols import Models, Reading, TextEmbedding
from models.scorers.layout import LayoutScorer
from models.synthetic.members import RandomFeatureScorer
from models.synthetic.scorer import FakeScorer
from tests.api.kit import is_problem, running
from tests.api.test_ensemble import ALL, Panel, codes, order
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel(tmp_path_factory.mktemp("panel")) as made:
        yield made


CAPTIONS = {"красное яблоко на белом фоне": "a red apple on a white background", "синяя лодка": "a blue boat"}


def test_a_scorer_that_cannot_read_near_misses_loses_no_result(tmp_path: Path) -> None:
    class Failing(FakeScorer):
        def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
            if texts[0] != prompt:
                raise RuntimeError("the tokenizer is gone")
            return super().embed_texts(texts)

    prompt = "a red apple and a green pear"
    load = lambda: Models(InstrumentedGenerator(), Failing())  # noqa: E731
    with running(tmp_path, load=load) as house:
        made = house.made(prompt=prompt, ranking={"contrast": True})
        assert "contrast_left_out" in codes(made)
        assert "tokenizer" not in str(made["warnings"])
        assert [one["contrast"] for one in made["data"]] == [0.0]
        answer = house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"contrast": True}})
        is_problem(answer, 500, "engine_failed")


def test_near_misses_are_those_of_the_caption_that_the_scorer_read(tmp_path: Path) -> None:
    """As if both had been written in English, also when stored images are ranked again."""

    class Reader(FakeScorer):
        def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
            return [
                replace(super(Reader, self).embed_texts([english])[0], reading=Reading("ru", english))
                if (english := CAPTIONS.get(text))
                else super(Reader, self).embed_texts([text])[0]
                for text in texts
            ]

    asked = {"seed": 7, "n_candidates": 4, "n": 4, "steps": 4, "ranking": {"contrast": True}}
    with running(tmp_path, load=lambda: Models(InstrumentedGenerator(), Reader())) as house:
        made = house.made(prompt="красное яблоко на белом фоне", **asked)
        assert made["ranking"]["prompt"] == "красное яблоко на белом фоне"
        assert made["ranking"]["near_misses"] == list(near_misses("a red apple on a white background")) != []
        assert all(one["contrast"] for one in made["data"])
        assert "contrast_without_near_misses" not in codes(made)
        again = house.post(
            f"/v1/generations/{made['id']}/rerank", json={"ranking": {"prompt": "синяя лодка", "contrast": True}}
        ).json()
        assert again["ranking"]["near_misses"] == list(near_misses("a blue boat")) != []
        assert all(one["contrast"] for one in again["data"])


def test_an_ensemble_computes_off_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}

    def watch(module: Any, name: str) -> None:
        called = getattr(module, name)

        def recorded(*given: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread().name.partition("_")[0])
            return called(*given)

        monkeypatch.setattr(module, name, recorded)

    asked = {"scorers": ALL, "contrast": True}
    with Panel(tmp_path) as panel:
        made = panel.made(**asked)
        for module, name in ((ensemble, "combine"), (ensemble, "agreement"), (panel_scores, "contrast_terms")):
            watch(module, name)
        watch(scoring, "score_images")
        panel.reranked(made, **asked)
    assert set(seen) == {"combine", "agreement", "contrast_terms", "score_images"}
    assert set().union(*seen.values()) <= {"asyncio", "uvloop"}, "threads of the loop's pool"


def test_a_cascade_shows_judges_only_the_best_of_the_others(tmp_path: Path) -> None:
    with Panel(tmp_path) as panel:
        panel.judge.seen.clear()
        made = panel.house.made(n_candidates=10, n=2, ranking={"scorers": ALL, "cascade": 4})
        assert sum(panel.judge.seen) == 4
        judged = [c for c in made["candidates"] if "fake-judge" in c["scores"]]
        assert len(judged) == 4
        assert set(order(made)) <= {c["index"] for c in judged}
        cheap = panel.made(scorers=ALL[:2])
        assert {c["index"] for c in judged} == set(order(cheap)[:4])
        panel.judge.seen.clear()
        panel.house.made(n_candidates=10, n=6, ranking={"scorers": ALL, "cascade": 4})
        assert sum(panel.judge.seen) == 6, "at least as many as are returned"


def test_without_a_cascade_the_cost_of_judges_decides_what_they_see(tmp_path: Path) -> None:
    with Panel(tmp_path) as panel:
        ensembles = panel.house.app.state.services.ensembles
        first = panel.house.made(n_candidates=10, n=2, ranking={"scorers": ALL})
        assert (sum(panel.judge.seen), first["judged"]) == (8, 8), "of unknown cost"
        ensembles.panel._seconds["fake-judge"] = 1e6
        panel.judge.seen.clear()
        dear = panel.house.made(n_candidates=10, n=2, ranking={"scorers": ALL})
        assert (sum(panel.judge.seen), dear["judged"]) == (4, 4)
        assert dear["ranking"]["cascade"] is None
        again = panel.house.post(f"/v1/generations/{dear['id']}/rerank", json={}).json()
        assert (order(again), again["judged"]) == (order(dear), 4)
        ensembles.panel._seconds["fake-judge"] = 1e-9
        assert panel.house.made(n_candidates=10, n=2, ranking={"scorers": ALL})["judged"] == 10
        ensembles.panel._seconds["fake-judge"] = 1e6
        asked = {"n_candidates": 10, "n": 2, "ranking": {"scorers": ALL}}
        assert panel.house.made(**asked, deterministic=True)["judged"] == 10
        assert panel.house.made(n_candidates=10, n=2, ranking={"scorers": ALL[:2]})["judged"] is None


def refused(panel: Panel, made: dict[str, Any], **ranking: Any) -> str:
    """The message of a re-ranking that is refused for its scorers."""
    answer = panel.house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": ranking})
    return str(is_problem(answer, 422, "invalid_request", "#/ranking/scorers")["error"]["message"])


def test_scorers_none_of_which_can_judge_are_refused_with_those_that_can(panel: Panel) -> None:
    made, images = panel.made(), len(panel.second.images)
    assert refused(panel, made, scorers=[{"name": "fake-2"}]) == (
        "ranking.scorers: the scorer 'fake-2' did not judge: no embeddings of it are stored for these candidates; "
        "use 'fake', or send the image files to `POST /v1/rank`"
    )
    told = refused(panel, made, scorers=[{"name": "fake", "weight": 0}, *ALL[1:]])
    assert "'fake-2' did not judge" in told
    assert "'fake-judge' did not judge" in told
    assert len(panel.second.images) == images
    one = panel.made(scorers=[{"name": "fake-judge"}, {"name": "fake-2", "weight": 0}])
    assert "use 'fake' or 'fake-2'," in refused(panel, one, prompt="a green tree")  # kept scorers count too
    assert "scorer_left_out" in codes(panel.reranked(one, prompt="a green tree", scorers=ALL[1:]))
    assert panel.reranked(one, prompt="a green tree", scorers=None)["ranking"]["scorers"] == []


def test_a_scorer_that_is_gone_is_not_offered_for_uploads(tmp_path: Path) -> None:
    with Panel(tmp_path) as panel:
        made = panel.made(scorers=ALL[1:])
    with running(tmp_path) as house:
        answer = house.post(f"/v1/generations/{made['id']}/rerank", json={})
        detail = is_problem(answer, 422, "invalid_request", "#/ranking/scorers")["detail"]
    assert detail.endswith("the scorer 'fake-judge' did not judge: it is not loaded on this replica; use 'fake'")


def test_uploads_that_are_all_vetoed_are_no_fault_of_the_scorer(panel: Panel) -> None:
    ranking = '{"scorers": [{"name": "fake-judge"}], "veto": ["artefact"]}'
    blank = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(blank, "PNG")
    files = [("images", ("0.png", blank.getvalue()))]
    answer = panel.house.client.post("/v1/rank", data={"prompt": "a red apple", "ranking": ranking}, files=files)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["data"], "scorer_left_out" in codes(answer.json())) == ([], False)


def test_a_scorer_alone_that_fails_ranks_nothing_again_and_no_upload(tmp_path: Path) -> None:
    with Panel(tmp_path) as panel:
        made = panel.made(scorers=ALL)

        def broken(texts: Sequence[str]) -> list[TextEmbedding]:
            raise RuntimeError("boom")

        panel.second.embed_texts = broken  # type: ignore[method-assign]
        body = {"ranking": {"prompt": "a green tree", "scorers": [{"name": "fake-2"}]}}
        answer = panel.house.post(f"/v1/generations/{made['id']}/rerank", json=body)
        told = is_problem(answer, 500, "engine_failed", "#/ranking/scorers")["detail"]
        assert "it failed to read the texts; send the request again, or use 'fake'" in told
        panel.judge.away = ScoringFailed("timeout", "the endpoint gave no answer within 5 s.")
        image = panel.house.client.get(f"/v1/generations/{made['id']}/images/0.png").content
        form = {"prompt": "a red apple", "ranking": '{"scorers": [{"name": "fake-judge"}]}'}
        answer = panel.house.client.post("/v1/rank", data=form, files=[("images", ("0.png", image))])
        assert "no answer within 5 s" in is_problem(answer, 500, "engine_failed", "#/ranking/scorers")["detail"]


def test_a_scorer_of_positions_is_no_default(tmp_path: Path) -> None:
    members = (RandomFeatureScorer(), LayoutScorer(FakeScorer(), id="layout:fake"))
    load = lambda: Models(InstrumentedGenerator(), FakeScorer(), members=members)  # noqa: E731
    with running(tmp_path, load=load, ensemble=True) as house:
        made = house.made(n_candidates=3)
    assert [use["name"] for use in made["ranking"]["scorers"]] == ["fake", "fake-2"]
    assert "scorer_left_out" not in codes(made)
