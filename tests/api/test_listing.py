"""GET /v1/generations over HTTP: pages, filters, owners, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.api.schemas.listing import decode_cursor
from tests.api.kit import House, is_problem, running


def ids(house: House, **asked: object) -> list[str]:
    answer = house.client.get("/v1/generations", params=asked)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return [found["id"] for found in answer.json()["data"]]


def test_pages_of_ones_own_generations(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        assert house.client.get("/v1/generations").json() == {
            "object": "list", "data": [], "has_more": False, "next": None,
        }  # fmt: skip
        made = [house.made(seed=seed, n_candidates=2) for seed in range(5)]
        newest_first = [one["id"] for one in reversed(made)]
        assert ids(house) == newest_first
        found, after = list[str](), None
        while True:
            page = house.client.get(
                "/v1/generations", params={"limit": 2, **({"after": after} if after else {})}
            ).json()
            found += [one["id"] for one in page["data"]]
            assert page["has_more"] == (page["next"] is not None)
            if not page["has_more"]:
                break
            house.made(seed=9, n_candidates=1)
            after = page["next"]
        assert found == newest_first
        last = house.client.get("/v1/generations", params={"created_before": made[1]["created"] + 1}).json()["data"][-1]
        best = made[0]["data"][0]
        assert last["data"] == [{k: best[k] for k in ("rank", "index", "seed", "score", "url")}]
        assert (last["status"], last["progress"], last["prompt"]) == ("succeeded", 1.0, "a red apple")
        assert ids(house, status=["queued", "running"]) == []
        assert len(ids(house, status="succeeded")) == 7
        assert house.client.head("/v1/generations").status_code == 200
        assert house.client.delete(f"/v1/generations/{newest_first[0]}").status_code == 204
        assert newest_first[0] not in ids(house)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("status", "done"),
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "x"),
        ("after", "gen_01M8KEAKT88E4HDP00KRY0DYGH"),
        ("after", "bmFuIGdlbl9h"),
        ("after", "!"),
        ("after", ""),
        ("created_after", "-1"),
        ("created_after", "nan"),
        ("created_before", "yesterday"),
        ("created_before", "inf"),
        ("after", "MS4wIGdlbl8A"),
        ("batch", "\0"),
        ("batch", "gen_01M8KEAKT88E4HDP00KRY0DYGH"),
    ],
)
def test_bad_parameters_are_named(house: House, parameter: str, value: str) -> None:
    answer = house.client.get("/v1/generations", params={parameter: value})
    body = is_problem(answer, 422, "invalid_request")
    assert body["errors"][0]["parameter"].startswith(parameter)


def test_a_cursor_is_not_a_number_in_disguise() -> None:
    with pytest.raises(ValueError, match="next"):
        decode_cursor("bmFuIGdlbl9h")
