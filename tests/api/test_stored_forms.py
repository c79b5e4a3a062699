"""A data folder of an earlier release opens, lists, re-ranks and refines. `answers.json` holds its answers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.domain import Negative, Status
from app.errors import StoreUnavailable
from app.stores import codec
from tests.api.kit import House, running
from tests.api.test_refine import refined
from tests.api.test_rerank import reranked
from tests.unit.store_kit import generation

FOLDER = Path(__file__).with_name("stored") / "form-1.zip"
FOREVER_S = 1e12


@pytest.fixture
def answers(tmp_path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(FOLDER) as packed:
        packed.extractall(tmp_path)
    found: dict[str, Any] = json.loads((tmp_path / "answers.json").read_text())
    return found


LATER: dict[str, Any] = {
    "veto": [], "scorers": [], "uncertainty": 0.5, "contrast": False, "near_misses": [], "cascade": None,
    "min_probability": None, "balance": None,
}  # fmt: skip
"""Fields that rankings have had since."""


def own(one: dict[str, Any]) -> dict[str, Any]:
    """The scores of each scorer, of which there was one."""
    return {"scores": {} if one["score"] is None else {"fake": one["score"]}}


@pytest.fixture
def old(tmp_path: Path, answers: dict[str, Any]) -> Any:
    with running(tmp_path, retention_s=FOREVER_S) as house:
        yield house


def test_every_generation_reads_as_it_was_answered(old: House, answers: dict[str, Any]) -> None:
    unknown: dict[str, Any] = {
        "wording": None,
        "style": None,
        "flags": [],
        "flag_reasons": {},
        "safety": None,
        "probability": None,
    }
    for name, answer in answers.items():
        suffix = answer["output_format"]
        files = [
            {**image, **unknown, **own(image), "contrast": 0.0, "url": f"{image['url']}.{suffix}"}
            for image in answer["data"]
        ]
        since = {"output_size": answer["size"], "data": files, "progress": 1.0, "step": None, "live": None}
        since |= {"control": [], "loras": [], "masked": False, "provenance": "none", "safety": "off"}
        since |= {
            "candidates": [
                {**one, **unknown, **own(one), "vetoed": False, "failure": None} for one in answer["candidates"]
            ],
            "judged": None,
        }
        since |= {
            "ranking": {**answer["ranking"], **LATER},
            "work": {**answer["work"], "images_read": 0, "rows_steered": 0},
        }
        since |= {"margin_error": None}
        since |= {"agreement": None, "referee": None, "prompt_language": None, "understood": None, "steering": None}
        since |= {"timings": {**answer["timings"], "guard_ms": 0.0}}
        assert old.client.get(f"/v1/generations/{answer['id']}").json() == answer | since, name
        for image in answer["data"]:
            assert old.client.get(image["url"]).status_code == 200
    assert old.client.get("/v1/taste/mine").json()["liked"] == 1


def test_the_same_question_gives_the_same_order(old: House, answers: dict[str, Any]) -> None:
    for name, answer in answers.items():
        again = reranked(old, answer)
        assert [i["index"] for i in again["data"]] == [i["index"] for i in answer["data"]], name
        assert again["ranking"] == {**answer["ranking"], **LATER}, name


def test_it_can_be_refined(old: House, answers: dict[str, Any]) -> None:
    child = refined(old, answers["rich"], index=0)
    assert child["ranking"] == {**answers["rich"]["ranking"], **LATER}
    assert child["negative_prompt"] == "blue"
    assert refined(old, answers["reranked"], index=0)["prompt"] == "green"
    assert refined(old, answers["refined"], index=0)["deterministic"] is True


def _first_form(**ranking: Any) -> str:
    fields = json.loads(codec.encode(generation()))["generation"]
    fields["spec"]["ranking"] = ranking
    return json.dumps(fields)


def test_the_first_form_counted_the_negative_prompt_beside_the_list() -> None:
    folded = codec.decode(_first_form(negatives=[{"text": "dark", "weight": 2.0}]))
    assert folded.spec.ranking.negatives == (Negative("blurry"), Negative("dark", 2.0))
    assert codec.decode(_first_form()).spec.ranking.negatives == (Negative("blurry"),)
    assert codec.decode(_first_form(own_negative=False)).spec.ranking.negatives == ()


def test_a_record_of_a_later_release_is_refused_with_the_next_action() -> None:
    record = json.dumps({"version": codec.VERSION + 1, "generation": {}})
    with pytest.raises(StoreUnavailable, match="newer release"):
        codec.decode(record)


def test_records_say_their_version() -> None:
    kept = codec.encode(generation(status=Status.QUEUED))
    assert json.loads(kept)["version"] == codec.VERSION
    assert codec.decode(kept) == generation(status=Status.QUEUED)
