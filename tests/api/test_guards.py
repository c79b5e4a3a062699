"""Flags and vetoes over HTTP: generations, re-rankings and uploads."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

import app.assembly
import models.guards.names
from app.settings import Settings
from models.protocols import Models, ScorerInfo, TextEmbedding
from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, is_problem, running
from tests.synthetic_models import InstrumentedGenerator
from tests.typographic import (
    BLUE,
    RED,
    THINGS,
    LabellingGenerator,
    LabelReader,
    ReadingScorer,
    pasted,
    prompt_of,
    thing,
)

pytestmark = pytest.mark.slow

WORD = THINGS[0]
ASKED: dict[str, Any] = {"prompt": prompt_of(WORD), "n_candidates": 8, "steps": 4, "seed": 3}


def uri(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service whose generator writes words, and whose scorer reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.assembly, "RapidOcrReader", LabelReader)
        patch.setattr(models.guards.names, "is_installed", lambda: True)
        generator = LabellingGenerator()
        load = lambda: Models(generator, ReadingScorer())  # noqa: E731
        with running(tmp_path_factory.mktemp("guards"), generator, load=load) as it:
            yield it


def test_a_written_word_wins_and_does_not_win_with_the_guard(attacked: House) -> None:
    plain = attacked.made(**ASKED, n=2)
    assert plain["data"][0]["flags"] == []
    assert plain["work"]["images_read"] == 0
    guarded = attacked.made(**ASKED, n=2, ranking={"veto": ["typographic"]})
    flagged = {c["index"] for c in guarded["candidates"] if c["flags"]}
    assert plain["data"][0]["index"] in flagged
    assert guarded["ranking"]["veto"] == ["typographic"]
    assert not flagged & {image["index"] for image in guarded["data"]}
    first = guarded["candidates"][plain["data"][0]["index"]]
    assert first["flag_reasons"] == {"typographic": [WORD]}
    assert first["score"] < plain["data"][0]["score"]
    assert first["rank"] is None
    assert [image["rank"] for image in guarded["data"]] == [1, 2]
    assert guarded["timings"]["guard_ms"] > 0
    assert guarded["work"]["images_read"] >= 3
    told = next(w for w in guarded["warnings"] if w["code"] == "candidates_vetoed")
    assert set(told["indices"]) == flagged
    best = attacked.post(json={**ASKED, "ranking": {"veto": ["typographic"]}}, headers={"accept": "image/png"})
    assert best.headers["x-frontrunner-seed"] == str(guarded["data"][0]["seed"])


def test_a_reranking_honours_a_veto_by_the_stored_flags(attacked: House) -> None:
    made = attacked.made(**ASKED, n=2, ranking={"veto": ["typographic"]})
    path, calls = f"/v1/generations/{made['id']}/rerank", len(attacked.generator.calls)
    same = attacked.post(path, json={}).json()
    assert [image["index"] for image in same["data"]] == [image["index"] for image in made["data"]]
    assert same["work"]["images_read"] == 0
    freed = attacked.post(path, json={"ranking": {"veto": None}, "n": 8}).json()
    assert len(freed["data"]) == 8
    assert {i["index"] for i in freed["data"] if i["flags"]} == {c["index"] for c in made["candidates"] if c["flags"]}
    again = attacked.post(path, json={"ranking": {"prompt": "a blue bridge", "veto": ["typographic"]}, "n": 8}).json()
    assert not any(image["flags"] for image in again["data"])
    assert len(attacked.generator.calls) == calls, "nothing was sampled or decoded"
    plain = attacked.made(**ASKED)
    unread = attacked.post(f"/v1/generations/{plain['id']}/rerank", json={"ranking": {"veto": ["typographic"]}}).json()
    assert next(w for w in unread["warnings"] if w["code"] == "guards_did_not_run")["guards"] == ["typographic"]
    stored = attacked.client.get(f"/v1/generations/{made['id']}").json()
    assert stored["candidates"] == made["candidates"]


def test_a_veto_returns_no_pruned_candidate_that_no_guard_inspected(attacked: House) -> None:
    made = attacked.made(**ASKED, n=1, ranking={"veto": ["typographic"]}, pruning=[{"at": 2, "keep": 3}])
    pruned = {c["index"] for c in made["candidates"] if c["pruned_at_step"] is not None}
    flagged = {c["index"] for c in made["candidates"] if c["flags"]}
    assert flagged
    path = f"/v1/generations/{made['id']}/rerank"
    answer = attacked.post(path, json={"include_pruned": True, "n": 8}).json()
    assert {image["index"] for image in answer["data"]} == set(range(8)) - pruned - flagged
    told = next(w for w in answer["warnings"] if w["code"] == "pruned_not_inspected")
    assert set(told["indices"]) == pruned
    for one in (made, answer):
        assert {c["index"] for c in one["candidates"] if c["vetoed"]} == flagged
    free = attacked.post(path, json={"include_pruned": True, "n": 8, "ranking": {"veto": None}}).json()
    assert {image["index"] for image in free["data"]} == set(range(8))
    assert not any(c["vetoed"] for c in free["candidates"])


def test_uploads_are_read_too(attacked: House) -> None:
    images = [uri(thing(RED)), uri(pasted(thing(BLUE), WORD)), "data:image/png;base64,AAAA", uri(thing(BLUE))]
    body = {"prompt": prompt_of(WORD), "images": images, "on_error": "skip"}
    plain = attacked.post("/v1/rank", json=body).json()
    assert [image["index"] for image in plain["data"]] == [1, 0, 3]
    assert plain["vetoed"] == []
    guarded = attacked.post("/v1/rank", json={**body, "ranking": {"veto": ["typographic"]}}).json()
    assert [image["index"] for image in guarded["data"]] == [0, 3]
    assert guarded["vetoed"] == [{"index": 1, "flags": ["typographic"], "flag_reasons": {"typographic": [WORD]}}]
    assert [skipped["index"] for skipped in guarded["skipped"]] == [2]


def test_a_quoted_word_may_be_written(attacked: House) -> None:
    images = [uri(thing(RED)), uri(pasted(thing(BLUE), WORD))]
    asked = {"prompt": f'a red sign "{WORD}"', "images": images, "ranking": {"veto": ["typographic"]}}
    answer = attacked.post("/v1/rank", json=asked).json()
    assert answer["vetoed"] == []


def test_a_field_of_flags_returns_nothing_and_says_why(attacked: House) -> None:
    everything = {"n_candidates": 1, "ranking": {"veto": ["typographic"]}}
    seeds = (s for s in range(50) if attacked.made(**{**ASKED, **everything, "seed": s})["data"] == [])
    body = {**ASKED, **everything, "seed": next(seeds)}
    empty = attacked.made(**body)
    assert {"candidates_vetoed", "fewer_after_veto"} <= {w["code"] for w in empty["warnings"]}
    assert empty["margin"] is None
    image = attacked.post(json=body, headers={"accept": "image/png"})
    is_problem(image, 422, "everything_vetoed", "#/ranking/veto")
    openai = attacked.post("/v1/images/generations", json={**body, "n": 1})
    assert openai.json()["error"]["code"] == "everything_vetoed"


@pytest.mark.parametrize("veto", [["nsfw"], "artefact", [1], ["artefact"] * 9])
def test_a_veto_names_guards(attacked: House, veto: Any) -> None:
    for path, body in (("/v1/generations", ASKED), ("/v1/rank", {"prompt": "x", "images": [uri(thing(RED, 16))]})):
        is_problem(attacked.post(path, json={**body, "ranking": {"veto": veto}}), 422, "invalid_request")


class BlankingGenerator(InstrumentedGenerator):
    """Makes grey images of every other candidate."""

    def decode(self, latents: Any, *, preview: bool = False) -> NDArray[np.uint8]:
        images = super().decode(latents, preview=preview).copy()
        for place, latent in enumerate(latents):
            if float(latent.x[0, 0, 0]) > float(latent.x[0, 0, 1]):
                images[place] = 128
        return images


def test_artefacts_are_flagged_always_and_excluded_on_request(tmp_path: Path) -> None:
    generator = BlankingGenerator()
    with running(tmp_path, generator, load=lambda: Models(generator, FakeScorer())) as house:
        plain = house.made(**ASKED, n=8)
        flagged = {image["index"]: image["flag_reasons"] for image in plain["data"] if image["flags"]}
        assert flagged
        assert set(map(str, flagged.values())) == {"{'artefact': ['blank']}"}
        vetoed = house.made(**ASKED, n=8, ranking={"veto": ["artefact"]})
        left = [image["index"] for image in plain["data"] if not image["flags"]]
        assert [image["index"] for image in vetoed["data"]] == left
        limits = house.client.get("/v1/models").json()["limits"]
        assert limits["guards"] == ["artefact"]


def test_a_guard_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.guards.names, "is_installed", lambda: False)
    with pytest.raises(ValidationError, match=r"frontrunner\[guards\]"):
        Settings(guards="artefact,typographic")
    with running(tmp_path, guards="") as house:
        assert house.client.get("/v1/models").json()["limits"]["installed_guards"] == ["artefact"]
        for path, body in (("/v1/generations", ASKED), ("/v1/rank", {"prompt": "x", "images": [uri(thing(RED, 16))]})):
            answer = house.post(path, json={**body, "ranking": {"veto": ["typographic"]}})
            assert "frontrunner[guards]" in is_problem(answer, 422, "guard_not_installed", "#/ranking/veto")["detail"]


class Contrary(FakeScorer):
    """Puts last what `FakeScorer` puts first."""

    @property
    def info(self) -> ScorerInfo:
        return replace(super().info, id="contrary")

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [replace(each, vector=-each.vector) for each in super().embed_texts(texts)]


def test_the_finalists_of_an_ensemble_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard reads what all scorers put first, not what the main one puts first."""
    monkeypatch.setattr(app.assembly, "RapidOcrReader", LabelReader)
    monkeypatch.setattr(models.guards.names, "is_installed", lambda: True)
    generator = LabellingGenerator()
    ranking = {"veto": ["typographic"], "scorers": [{"name": "fake", "weight": 0.0}, {"name": "contrary"}]}
    reds = [thing((255 - 10 * place, 20, 20)) for place in range(11)]
    images = [uri(image) for image in (*reds, pasted(thing(BLUE), WORD))]
    load = lambda: Models(generator, FakeScorer(), members=(Contrary(),))  # noqa: E731
    with running(tmp_path, generator, load=load) as house:
        made = house.made(**{**ASKED, "n_candidates": 12}, ranking=ranking)
        ranked = house.post("/v1/rank", json={"prompt": ASKED["prompt"], "images": images, "ranking": ranking}).json()
    for answer in (made, ranked):
        assert "guard_incomplete" not in [w["code"] for w in answer["warnings"]]
        assert not any(image["flags"] for image in answer["data"])
    assert [one["index"] for one in ranked["vetoed"]] == [11], "the main scorer puts it last, the member first"
    assert [c["index"] for c in made["candidates"] if c["flags"]]
