"""Numbers outside their range: the message alone names the field and what it accepts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.api import sse
from app.errors import InvalidRequest
from tests.api.kit import PROMPT, House, is_problem

pytestmark = [pytest.mark.usefixtures("served_afterwards"), pytest.mark.slow]

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("", {"n_candidates": 0}, "n_candidates: 0 is out of range; send a value between 1 and 64"),
        ("", {"n_candidates": 65}, "n_candidates: 65 is out of range; send a value between 1 and 64"),
        (
            "",
            {"n_candidates": "auto", "max_candidates": 0},
            "max_candidates: 0 is out of range; send a value between 1",
        ),
        ("", {"n": -1}, "n: -1 is out of range; send a value between 1 and 3"),
        ("", {"steps": 0}, "steps: 0 is out of range; send a value between 1 and 150"),
        ("", {"guidance_scale": -1}, "guidance_scale: -1 is out of range; send a value between 0 and 50"),
        ("", {"seed": -2}, "seed: -2 is out of range; send a value between -1 and 18446744073709551615"),
        ("", {"pruning": [{"at": 0}]}, "pruning.0.at: 0 is out of range; send a value between 1 and 3"),
        ("", {"pruning": [{"at": 1, "keep": 0}]}, "pruning.0.keep: 0 is out of range; send a value between 1 and 3"),
        ("", {"steering": {"scale": -1}}, "steering.scale: -1 is out of range; send a value between 0 and 0.1"),
        ("", {"ranking": {"min_score": -20.5}}, "ranking.min_score: -20.5 is out of range; send a value between -20"),
        ("", {"size": "60x64"}, "size: 60 is not a multiple of 8"),
        ("", {"sampler": "magic"}, "sampler: sampler 'magic' is unknown"),
        ("", {"model": "other"}, "model: "),
        ("/{id}/rerank", {"n": 0}, "n: 0 is out of range; send a value between 1 and 3"),
        ("/{id}/refine", {"index": 0, "steps": 0}, "steps: 0 is out of range; send a value between 1 and 150"),
        (
            "/{id}/refine",
            {"index": 0, "n_candidates": 0},
            "n_candidates: 0 is out of range; send a value between 1 and",
        ),
        ("/{id}/refine", {"index": -1}, "index: -1 is out of range; send a value between 0 and 2147483647"),
    ],
)
def test_the_message_alone_names_the_field_and_what_it_accepts(
    house: House, path: str, asked: dict[str, Any], told: str
) -> None:
    base = {} if path else PROMPT
    made = house.made()["id"] if path else ""
    found = house.post(f"/v1/generations{path.format(id=made)}", json={**base, **asked}).json()
    assert found["detail"] == found["error"]["message"]
    assert found["detail"].startswith(told)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/images/generations", {"prompt": "x", "n": 0}),
        ("/v1/audits", {"prompt": "x", "attributes": [{"name": "a", "values": ["b", "c"]}], "n": 0}),
        ("/v1/audits", {"prompt": "x", "attributes": [{"name": "a", "values": ["b", "c"]}], "n_candidates": 0}),
    ],
)
def test_a_zero_is_no_omitted_value(house: House, path: str, asked: dict[str, Any]) -> None:
    assert (
        "0 is out of range; send a value between"
        in is_problem(house.post(path, json=asked), 422, "invalid_request")["detail"]
    )


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ("n_candidates", "between 1 and 64"),
        ("n", "between 1 and 3"),
        ("steps", "between 1 and 150"),
        ("seed", "between -1 and 18446744073709551615"),
        ("previews", "between 0 and 10"),
        ("guidance_scale", "between 0 and 50"),
    ],
)
@pytest.mark.parametrize("number", ["1e23", "-1E+23", "1e300", "1e400", "200000000000000000000000.0"])
def test_a_whole_number_with_an_exponent_is_out_of_range(house: House, field: str, accepted: str, number: str) -> None:
    body = json.dumps({**PROMPT, field: 0}).replace(f'"{field}": 0', f'"{field}": {number}')
    found = is_problem(house.post(content=body, headers=JSON), 422, "invalid_request", f"#/{field}")
    assert found["detail"] == f"{field}: the value is out of range; send a value {accepted}"


def test_a_whole_number_with_a_point_is_a_whole_number(house: House) -> None:
    made = house.post(json={"prompt": "a boat", "n_candidates": 2.0, "n": 1.0, "steps": 4e0, "seed": 7.0}).json()
    assert (made["n_candidates"], made["seed"]) == (2, 7)
    found = is_problem(house.post(json={**PROMPT, "steps": 4.5}), 422, "invalid_request", "#/steps")
    assert found["detail"] == "steps: the value must be a whole number"
    found = is_problem(house.client.get("/v1/generations?limit=1e1"), 422, "invalid_request", "limit")
    assert found["detail"] == "limit: the value must be a whole number, in digits"


def test_an_error_in_a_stream_names_its_field() -> None:
    event = sse.encode_error_event(InvalidRequest("0 is out of range", pointer="#/ranking/negatives/0/weight"))
    told = json.loads(event.partition(b"data: ")[2])["error"]
    assert (told["message"], told["param"]) == (
        "ranking.negatives.0.weight: 0 is out of range",
        "ranking.negatives.0.weight",
    )


@pytest.mark.parametrize("limit", [0, 101])
def test_a_query_parameter_names_both_bounds(house: House, limit: int) -> None:
    found = is_problem(house.client.get(f"/v1/generations?limit={limit}"), 422, "invalid_request", "limit")
    assert found["detail"] == f"limit: {limit} is out of range; send a value between 1 and 100"
