"""A member that loads at its first use, on every route that may name it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from models.errors import PackCorrupt
from models.protocols import Embedder, Models
from models.scorers.deferred import DeferredScorer
from models.synthetic.members import ColourJudge, RandomFeatureScorer
from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, is_problem, running
from tests.api.test_rerank import uri
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow


class Broken:
    """Makes the loads of a member fail while `away`."""

    away = True

    def load(self) -> Embedder:
        if self.away:
            raise PackCorrupt("broken")
        return RandomFeatureScorer()


BROKEN = Broken()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    member = DeferredScorer(RandomFeatureScorer().info, BROKEN.load)
    models = Models(InstrumentedGenerator(), FakeScorer(), members=(member, ColourJudge()), referee=None)
    with running(tmp_path_factory.mktemp("deferred"), load=lambda: models, model_aliases="mine=fake-2") as house:
        yield house


def test_embeddings_load_it_at_their_first_use(served: House) -> None:
    asked = {"input": ["red", "blue"], "model": "fake-2"}
    BROKEN.away = True
    is_problem(served.post("/v1/embeddings", json=asked), 500, "engine_failed")
    BROKEN.away = False
    answer = served.post("/v1/embeddings", json=asked)
    assert answer.status_code == 200, answer.text
    expected = RandomFeatureScorer().embed_texts(["red", "blue"])
    assert answer.json()["model"] == "fake-2"
    assert answer.json()["warnings"] == []
    for one, text in zip(answer.json()["data"], expected, strict=True):
        assert one["embedding"] == pytest.approx(text.vector.tolist(), abs=1e-6)
    assert served.post("/v1/embeddings", json={**asked, "dimensions": len(expected[0].vector)}).status_code == 200
    refused = served.post("/v1/embeddings", json={**asked, "dimensions": 13})
    assert "'fake-2' has 64 dimensions" in is_problem(refused, 422, "invalid_request", "#/dimensions")["detail"]


def test_documents_are_ranked_by_it_and_an_alias_may_name_it(served: House) -> None:
    BROKEN.away = False
    asked = {"query": "red", "documents": ["blue", "red"], "model": "mine"}
    answer = served.post("/v1/rerank", json=asked).json()
    query, blue = (each.vector for each in RandomFeatureScorer().embed_texts(["red", "blue"]))
    assert answer["model"] == "fake-2"
    assert [one["code"] for one in answer["warnings"]] == ["model_aliased"]
    assert [one["index"] for one in answer["results"]] == [1, 0]
    assert answer["results"][1]["relevance_score"] == pytest.approx(float(query @ blue), abs=1e-5)


def test_it_is_read_by_its_name_and_makes_no_images(served: House) -> None:
    found = served.client.get("/v1/models/fake-2").json()
    assert (found["id"], found["scorer"]["dimensions"]) == ("fake-2", 64)
    assert "generator" not in found
    refused = served.post("/v1/images/generations", json={"prompt": "x", "model": "fake-2"})
    is_problem(refused, 422, "wrong_model_kind", "#/model")


def test_a_scorer_that_only_scores_has_no_embeddings(served: House) -> None:
    answer = served.post("/v1/embeddings", json={"input": "red", "model": "fake-judge"})
    detail = is_problem(answer, 404, "not_found", "#/model")["detail"]
    assert detail == "model: no scorer with embeddings is named 'fake-judge': use 'fake' or 'fake-2'"


def test_uploads_name_it_among_their_scorers_and_not_as_the_model(served: House) -> None:
    BROKEN.away = False
    asked = {"prompt": "red", "images": [uri("red"), uri("blue")]}
    refused = served.post("/v1/rank", json={**asked, "model": "fake-2"})
    detail = is_problem(refused, 422, "invalid_request", "#/model")["detail"]
    assert detail == (
        "model: 'fake-2' is a further scorer of the model 'fake': send `model` 'fake' or omit it, and name the scorer "
        'in `ranking.scorers`: [{"name": "fake-2"}]'
    )
    ranked = served.post("/v1/rank", json={**asked, "ranking": {"scorers": [{"name": "fake-2"}]}}).json()
    assert [one["index"] for one in ranked["data"]] == [0, 1]
    assert all("fake-2" in one["scores"] for one in ranked["data"])
    unknown = served.post("/v1/rank", json={**asked, "model": "fake-3"})
    assert is_problem(unknown, 404, "not_found", "#/model")["detail"] == "model: no model is named 'fake-3': use 'fake'"
