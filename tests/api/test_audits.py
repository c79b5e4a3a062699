"""Audits over HTTP: what a probe finds, who may audit what, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.engine.audits.findings import UNDETERMINED, Attribute, AuditedField, classify, find
from models.protocols import Models
from models.synthetic.members import ColourJudge, RandomFeatureScorer
from models.synthetic.scorer import FakeScorer
from tests.api.keys_kit import add_key
from tests.api.kit import PROMPT, House, hang_up, is_problem, running, until
from tests.models_kit import FakeModel, Shelf, broken
from tests.synthetic_models import InstrumentedGenerator

COLOURS = {"name": "colour", "values": ["red", "blue"]}
ASKED: dict[str, Any] = {"attributes": [COLOURS], "certainty": 0.5, "n_candidates": 6, "steps": 2, "seed": 7}


class Probe(FakeScorer):
    """Sees what the main scorer sees, under another name."""

    def __init__(self) -> None:
        super().__init__()
        self._info = replace(self._info, id="probe", revision="of another")


def models(delay_s: float = 0.0) -> Models:
    members = (Probe(), RandomFeatureScorer(), ColourJudge())
    return Models(InstrumentedGenerator(delay_s=delay_s), FakeScorer(), members=members)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("audits"), load=models) as here:
        yield here


def audited(house: House, **asked: Any) -> dict[str, Any]:
    answer = house.post("/v1/audits", json={**ASKED, **asked})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.slow
def test_a_ranking_by_a_colour_is_found_to_favour_it(house: House) -> None:
    """Candidates are sampled from other words than the ranking asks for."""
    prompts = [f"a thing of kind {number}" for number in range(40)]
    found = audited(house, prompts=prompts, ranking={"prompt": "red"}, n_candidates=12)
    assert found["probe"] == "probe", "the scorer that ranks is not asked"
    assert (found["probe_ranks"], found["candidates"], found["winners"]) == (False, 40 * 12, 40)
    (colour,) = found["attributes"]
    red, blue = colour["values"]
    assert (red["verdict"], blue["verdict"]) == ("favours", "disfavours")
    assert red["ranking"]["low"] > 1
    assert blue["ranking"]["p_value"] == pytest.approx(red["ranking"]["p_value"]), "two values are one test"
    assert red["winners"]["share"] > red["candidates"]["share"]
    assert red["difference"]["low"] > 0
    for share in (red["candidates"], blue["candidates"], red["winners"]):
        assert share["low"] <= share["share"] <= share["high"]
    assert red["candidates"]["count"] + blue["candidates"]["count"] + colour["undetermined"]["count"] == 40 * 12
    assert [w["code"] for w in found["warnings"]] == ["probe_is_rough"]
    made = house.client.get(f"/v1/generations/{found['generations'][1]}").json()
    assert all(c["pruned_at_step"] is None for c in made["candidates"])
    assert (made["seed"], made["prompt"]) == (7 + 12, prompts[1])
    again = audited(house, generations=found["generations"])
    assert again["attributes"] == found["attributes"], "stored generations tell the same"
    whole = house.made(n_candidates=4, n=4)["id"]
    everything = audited(house, generations=[whole])
    assert everything["winners"] == 4, "stored generations have the winners that they returned"
    assert "all_won" in [w["code"] for w in everything["warnings"]]
    best = audited(house, generations=[whole], n=1)
    assert best["winners"] == 1
    assert "all_won" not in [w["code"] for w in best["warnings"]]
    top = house.client.get(f"/v1/generations/{whole}").json()["data"][0]["index"]
    shares = {value["text"]: value["winners"]["count"] for value in best["attributes"][0]["values"]}
    alone = audited(house, generations=[house.made(n_candidates=1, n=1, seed=7 + top)["id"]])
    assert shares == {value["text"]: value["candidates"]["count"] for value in alone["attributes"][0]["values"]}
    swapped = audited(house, generations=found["generations"], attributes=[{"name": "c", "values": ["blue", "red"]}])
    assert swapped["attributes"][0]["values"] == [blue, red]


def test_a_ranking_that_asks_for_nothing_of_it_is_cleared(house: House) -> None:
    """The first candidates of one value by construction are as many as chance gives."""
    found = audited(house, prompts=["a thing"] * 12, ranking={"prompt": "red"}, certainty=1.0)
    (colour,) = found["attributes"]
    assert colour["undetermined"]["share"] == 1
    assert {value["verdict"] for value in colour["values"]} == {"cannot tell"}
    assert {"few_generations", "mostly_undetermined"} < {w["code"] for w in found["warnings"]}


def test_the_scorer_that_ranks_is_no_probe_unless_forced(house: House) -> None:
    made = house.made(n_candidates=4, n=1)["id"]
    for asked in ({"generations": [made]}, {"prompt": "a red apple"}):
        answer = house.post("/v1/audits", json={**ASKED, **asked, "probe": "fake"})
        is_problem(answer, 422, "probe_ranks", "#/probe")
        forced = audited(house, **asked, probe="fake", force=True)
        assert forced["probe_ranks"]
        assert "probe_ranks" in [w["code"] for w in forced["warnings"]]
    both = {"ranking": {"scorers": [{"name": "fake"}, {"name": "probe"}, {"name": "fake-2"}]}}
    is_problem(house.post("/v1/audits", json={**ASKED, **both, "prompt": "x"}), 422, "probe_ranks", "#/probe")
    judged = house.made(n_candidates=4, n=1, **both)["id"]
    is_problem(house.post("/v1/audits", json={**ASKED, "generations": [judged]}), 422, "probe_ranks", "#/probe")


def test_pruned_candidates_are_in_the_field_by_their_previews(house: House) -> None:
    made = house.made(n_candidates=6, n=1, pruning=[{"at": 2, "keep": 2}])
    found = audited(house, generations=[made["id"]])
    assert found["candidates"] == 6
    assert "pruned_by_preview" in [w["code"] for w in found["warnings"]]


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"prompt": "x", "attributes": [{"name": "a", "values": ["one"]}]}, "#/attributes/0/values"),
        ({"prompt": "x", "attributes": [{"name": "a", "values": ["one", "one"]}]}, "#/attributes/0/values"),
        ({"prompt": "x", "attributes": [{"name": "a", "values": ["one", " "]}]}, "#/attributes/0/values/1"),
        ({"prompt": "x", "attributes": []}, "#/attributes"),
        ({"prompt": "x", "attributes": [COLOURS, COLOURS]}, "#/attributes/1/name"),
        ({"prompts": ["x"] * 10_000}, "#/prompts"),
        ({"prompts": ["x"] * 256, "n_candidates": 64}, "#/n_candidates"),
        ({"prompt": "x", "prompts": ["x"]}, "#"),
        ({}, "#"),
        ({"prompt": "x", "n": 6}, "#/n"),
        ({"prompt": "x", "n_candidates": 1}, "#/n_candidates"),
        ({"prompt": "x", "certainty": 0.4}, "#/certainty"),
        ({"prompt": "x", "probe": "fake-judge"}, "#/probe"),
        ({"prompt": "x", "probe": "no-such-scorer"}, "#/probe"),
        ({"prompt": "x" * 5000}, "#/prompts/0"),
    ],
)
def test_audits_that_do_not_fit_are_refused(house: House, asked: dict[str, Any], pointer: str) -> None:
    before = house.client.get("/v1/generations").json()["data"][:1]
    is_problem(house.post("/v1/audits", json={**ASKED, **asked}), 422, "invalid_request", pointer)
    assert house.client.get("/v1/generations").json()["data"][:1] == before, "nothing was sampled"


def test_numbers_are_checked_where_stored_generations_need_none(tmp_path: Path) -> None:
    with running(tmp_path, load=models, default_candidates=1) as here:
        asked = {**ASKED, "n_candidates": None, "generations": [here.made(n_candidates=4)["id"]]}
        assert here.post("/v1/audits", json=asked).status_code == 200
        for field, value in (("n_candidates", 65), ("n_candidates", 0), ("steps", 0), ("guidance_scale", -1)):
            answer = here.post("/v1/audits", json=asked | {field: value})
            is_problem(answer, 422, "invalid_request", f"#/{field}")


def test_generations_of_others_are_not_audited(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with running(tmp_path, load=models) as here:
        _, mine = add_key(folder)
        _, theirs = add_key(folder)
        made = here.post(json=PROMPT, headers=mine).json()["id"]
        asked = {**ASKED, "generations": [made]}
        assert here.post("/v1/audits", json=asked, headers=mine).status_code == 200
        is_problem(here.post("/v1/audits", json=asked, headers=theirs), 404, "not_found", "#/generations/0")
        assert here.post("/v1/audits", json=asked).status_code == 401


def test_a_balance_returns_the_best_within_its_shares_and_tells_the_cost(house: House) -> None:
    asked = {"n_candidates": 12, "n": 4, "seed": 7, "pruning": "off", "prompt": "a thing of kind 3", "steps": 2}
    plain = house.made(**asked, ranking={"prompt": "red"})
    values = {"red": 0.5, "blue": 0.5}
    made = house.made(**asked, ranking={"prompt": "red", "balance": {"attribute": "colour", "values": values}})
    (told,) = [w for w in made["warnings"] if w["code"] in {"balanced", "balance_not_reached"}]
    means = [sum(image["score"] for image in each["data"]) / 4 for each in (plain, made)]
    assert told["cost"] == pytest.approx(means[0] - means[1])
    assert made["ranking"]["balance"] == {"attribute": "colour", "values": values}
    assert [each["asked"] for each in told["values"]] == [2, 2]
    again = house.post(
        f"/v1/generations/{plain['id']}/rerank", json={"ranking": {"balance": made["ranking"]["balance"]}}
    )
    assert [i["index"] for i in again.json()["data"]] == [i["index"] for i in made["data"]]
    cleared = house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"balance": None}}).json()
    assert [i["index"] for i in cleared["data"]] == [i["index"] for i in plain["data"]]


def test_the_command_prints_shares_and_verdicts(house: House) -> None:
    asked = ["audit", "a thing", "another thing", "--attribute", "colour=red|blue", "--candidates", "6", "--seed", "7"]
    found = CliRunner().invoke(app, [*asked, "--certainty", "0.5", "--url", house.url], env={"COLUMNS": "160"})
    assert found.exit_code == 0, found.output
    for told in ("colour", "red", "blue", "undetermined", "probe probe", "a zero-shot probe"):
        assert told in found.output
    printed = CliRunner().invoke(app, [*asked, "--json", "--certainty", "0.5", "--url", house.url])
    body = json.loads(printed.output)
    assert body["candidates"] == 12
    listed = [part for each in body["generations"] for part in ("--generation", each)]
    stored = ["audit", *listed, "--attribute", "colour=red|blue", "--certainty", "0.5", "--json", "--url", house.url]
    assert json.loads(CliRunner().invoke(app, stored).output)["attributes"] == body["attributes"]
    wrong = CliRunner().invoke(app, ["audit", "a thing", "--attribute", "red", "--url", house.url])
    assert wrong.exit_code == 1
    assert "write NAME=TEXT|TEXT" in wrong.output
    without = CliRunner().invoke(app, ["audit", "a thing", "--url", house.url])
    assert without.exit_code == 2
    assert "--attribute" in without.output
    many = [part for n in range(17) for part in ("--attribute", f"a{n}=red|blue")]
    refused = CliRunner().invoke(app, ["audit", "a thing", *many, "--url", house.url])
    assert refused.output == "frontrunner: --attribute: the list is too long: send at most 16\n"


def test_images_without_a_certain_value_are_undetermined() -> None:
    texts = np.eye(2, dtype=np.float32)
    images = np.asarray([(1, 0), (0.6, 0.8), (0.70, 0.714), (np.nan, 0)], np.float32)
    assert classify(images, texts, 20.0, 0.75).tolist() == [0, 1, UNDETERMINED, UNDETERMINED]
    assert classify(images, texts, 20.0, 0.5).tolist() == [0, 1, 1, UNDETERMINED]


def test_undetermined_candidates_take_no_part_in_the_odds() -> None:
    """Two fields; in each an undetermined candidate, which wins the second."""
    classes = (np.asarray([0, 1, UNDETERMINED]),)
    won = (np.asarray([True, False, False]), np.asarray([False, False, True]))
    (found,) = find([Attribute("a", ("x", "y"))], [AuditedField(classes, each) for each in won])
    first = found.values[0]
    assert (first.candidates.count, first.winners.count, found.undetermined_winners.count) == (2, 1, 1)
    assert (first.odds.fields, first.odds.observed) == (1, 1)
    assert first.odds.expected == pytest.approx(0.5)


def test_stored_generations_are_audited_by_their_model(tmp_path: Path) -> None:
    shelf = Shelf(FakeModel("broken", problems=[broken()]), FakeModel("small"))
    with running(tmp_path, registry=shelf.registry) as one:
        made = one.made(model="small", n=1)
        asked = {"generations": [made["id"]], "attributes": [{"name": "colour", "values": ["red", "blue"]}]}
        audited = one.post("/v1/audits", json={**asked, "force": True})
        assert (audited.status_code, audited.json().get("generations")) == (200, [made["id"]]), audited.text
        is_problem(one.post("/v1/audits", json={**asked, "model": "broken"}), 503, "model_load_failed")


def test_a_client_that_leaves_cancels_what_is_not_made(tmp_path: Path) -> None:
    with running(tmp_path, load=partial(models, delay_s=0.05)) as here:
        asked = {**ASKED, "prompts": [f"a thing {n}" for n in range(200)], "n_candidates": 16, "steps": 50}
        hang_up(here, "/v1/audits", asked, lambda: here.live > 0)

        def ends() -> list[str]:
            return [each["status"] for each in here.client.get("/v1/generations?limit=100").json()["data"]]

        until(lambda: here.live == 0 and set(ends()) <= {"succeeded", "cancelled"})
        assert len(ends()) < 100, "the others were never submitted"
        assert "cancelled" in ends()


def test_generations_that_fail_are_left_out(tmp_path: Path) -> None:
    """Under a veto the classifier flags all candidates of one prompt."""
    with running(tmp_path, load=models, safety="veto", safety_classifier="fake", safety_threshold=0.615) as here:
        asked = {**ASKED, "n_candidates": 2, "steps": 4, "seed": 3}
        found = audited(here, **{**asked, "prompts": ["a blue sky", "red"]})
        (told,) = [w for w in found["warnings"] if w["code"] == "generations_left_out"]
        assert [(each["prompt"], each["code"]) for each in told["generations"]] == [("red", "all_flagged")]
        assert len(found["generations"]) == 1
        is_problem(here.post("/v1/audits", json={**asked, "prompt": "red"}), 422, "all_flagged")
