"""Profiles of votes, and rankings that name one."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.kit import House, is_problem, running
from tests.api.test_rerank import NOWHERE, reranked

pytestmark = pytest.mark.slow

NANS = base64.b64encode(b"\x00\x7e" * 13).decode()
FIELD = {"prompt": "apple", "n_candidates": 32, "n": 3, "steps": 2}


def voted(house: House, profile: str, **ballot: Any) -> dict[str, Any]:
    answer = house.post(f"/v1/taste/{profile}/votes", json=ballot)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def greenish(house: House, made: dict[str, Any]) -> list[int]:
    """Candidates from the greenest on."""
    return [image["index"] for image in reranked(house, made, prompt="green", n=32, negatives=[])["data"]]


def test_profiles_of_one_key_have_a_limit(tmp_path: Path) -> None:
    with running(tmp_path, max_profiles=2, max_profiles_mib=1) as house:
        ballot = {"generation": house.made(**FIELD)["id"], "liked": [1]}
        for profile in ("one", "two", "two"):
            voted(house, profile, **ballot)
        problem = is_problem(house.post("/v1/taste/three/votes", json=ballot), 422, "profile_limit", "#")
        assert "at most 2 taste profiles" in problem["detail"]
        whole = house.client.get("/v1/taste/one/export").json()
        is_problem(house.client.put("/v1/taste/three", json=whole), 422, "profile_limit", "#")
        assert house.client.delete("/v1/taste/one").status_code == 204
        assert house.client.put("/v1/taste/three", json=whole).status_code == 200
        assert house.client.get("/v1/taste").json()["data"] == ["three", "two"]


def test_votes_that_are_sent_again_change_nothing(house: House) -> None:
    made = house.made(**FIELD)
    told = voted(house, "again", generation=made["id"], liked=[1], preferred=[[2, 3]])
    before = house.client.get("/v1/taste/again/export").json()
    assert voted(house, "again", generation=made["id"], liked=[1], preferred=[[2, 3]]) == told
    assert house.client.get("/v1/taste/again/export").json() == before
    voted(house, "again", generation=made["id"], disliked=[1])
    assert house.client.get("/v1/taste/again/export").json()["fields"] == 2


def test_votes_move_a_ranking_that_names_them_and_no_other(house: House) -> None:
    taught = [house.made(**FIELD, seed=seed) for seed in (1000, 2000, 3000)]
    for made in taught:
        order = greenish(house, made)
        told = voted(house, "greens", generation=made["id"], liked=order[:3], disliked=order[-2:])
    assert (told["liked"], told["disliked"], told["preferred"], told["scorer"]) == (9, 6, 0, "fake")
    assert told["agreement"] > 0.9
    asked = house.made(**FIELD, seed=4000)
    order = greenish(house, asked)
    taste = {"profile": "greens"}
    plain, tasted = (reranked(house, asked, n=32, **extra) for extra in ({}, {"taste": taste}))

    def place(body: dict[str, Any]) -> float:
        return float(np.mean([order.index(image["index"]) for image in body["data"][:8]]))

    assert place(tasted) < place(plain)
    assert tasted["ranking"]["taste"] == {"profile": "greens", "weight": 1.0, "bound": pytest.approx(told["bound"])}
    for image in tasted["data"]:
        assert abs(image["taste"]) <= told["bound"]
        assert image["score"] == pytest.approx(image["similarity"] - 0.5 * image["penalty"] + image["taste"], abs=1e-5)
    assert all(image["taste"] == 0 for image in plain["data"])
    weak = reranked(house, asked, n=32, taste={"profile": "greens", "weight": 0.0})
    assert [i["index"] for i in weak["data"]] == [i["index"] for i in plain["data"]]
    sampled = house.made(**FIELD, seed=4000, ranking={"taste": taste})
    assert [i["score"] for i in sampled["data"]] == [i["score"] for i in tasted["data"][:3]]
    assert reranked(house, sampled)["data"] == sampled["data"]
    off = reranked(house, sampled, taste=None, n=32)
    assert [i["index"] for i in off["data"]] == [i["index"] for i in plain["data"]]


def test_only_likes_changes_of_mind_and_the_same_vote_again(house: House) -> None:
    made = house.made(**FIELD)
    told = voted(house, "odd", generation=made["id"], liked=[1, 1, 2])
    assert (told["liked"], told["agreement"]) == (2, 1.0)
    told = voted(house, "odd", generation=made["id"], liked=[0], disliked=[2])
    assert (told["liked"], told["disliked"], told["agreement"]) == (2, 1, 1.0)
    assert voted(house, "odd", generation=made["id"], preferred=[[3, 4]])["preferred"] == 1
    told = voted(house, "odd", generation=made["id"], preferred=[[4, 3], [4, 5]])
    assert told["preferred"] == 2
    kept = house.client.get("/v1/taste/odd/export").json()["votes"]
    assert [(v["kind"], v["index"], v["over"]) for v in kept] == [
        ("like", 1, None), ("like", 0, None), ("dislike", 2, None), ("prefer", 4, 3), ("prefer", 4, 5),
    ]  # fmt: skip
    assert reranked(house, made, taste={"profile": "odd"})["data"]


def test_votes_that_contradict_each_other_cancel_out(house: House) -> None:
    made = house.made(**FIELD)
    voted(house, "torn", generation=made["id"], liked=[1, 2])
    whole = house.client.get("/v1/taste/torn/export").json()
    contrary = {"kind": "prefer", "generation": made["id"], "index": 3, "over": 4}
    there = np.frombuffer(base64.b64decode(whole["votes"][0]["direction"]), "<f2")
    votes = [{**contrary, "direction": base64.b64encode(there.tobytes()).decode()}]
    votes += [{**contrary, "index": 4, "over": 3, "direction": base64.b64encode((-there).tobytes()).decode()}]
    answer = house.client.put("/v1/taste/torn", json={**whole, "votes": votes})
    assert answer.json()["preferred"] == 2
    assert max(abs(i["taste"]) for i in reranked(house, made, taste={"profile": "torn"})["data"]) < 1e-6
    told = voted(house, "torn", generation=made["id"], preferred=[[3, 4]])
    assert told["preferred"] == 1, "the same vote again takes the contrary one back"
    assert house.client.put("/v1/taste/torn", json={**whole, "votes": votes[1:]}).status_code == 200
    first = reranked(house, made, taste={"profile": "torn"})["data"]
    assert house.client.put("/v1/taste/torn", json={**whole, "votes": votes[:1]}).status_code == 200
    assert reranked(house, made, taste={"profile": "torn"})["data"] != first, "it is fitted anew"


def test_a_profile_is_carried_from_one_service_to_another(house: House) -> None:
    made = house.made(**FIELD)
    told = voted(house, "mine", generation=made["id"], liked=[1, 2], preferred=[[5, 6]])
    asked = {"taste": {"profile": "mine"}}
    before = reranked(house, made, **asked)["data"]
    document = house.client.get("/v1/taste/mine/export").json()
    assert house.client.get("/v1/taste/mine").json() == told
    assert "mine" in house.client.get("/v1/taste").json()["data"]
    assert house.client.delete("/v1/taste/mine").status_code == 204
    for method, where in (("GET", ""), ("DELETE", ""), ("GET", "/export")):
        is_problem(house.client.request(method, f"/v1/taste/mine{where}"), 404, "not_found")
    answer = house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": asked})
    is_problem(answer, 404, "not_found", "#/ranking/taste/profile")
    is_problem(house.post(json={"prompt": "x", "ranking": asked}), 404, "not_found", "#/ranking/taste/profile")
    assert house.client.put("/v1/taste/mine", json=document).json() == told
    assert house.client.get("/v1/taste/mine/export").json() == document
    assert reranked(house, made, **asked)["data"] == before
    twice = document | {"votes": document["votes"] * 2}
    assert house.client.put("/v1/taste/mine", json=twice).json() == told
    for change in ({"scorer": "other"}, {"revision": "2"}):
        is_problem(house.client.put("/v1/taste/mine", json=document | change), 422, "other_scorer", "#/scorer")


def test_ten_thousand_votes_are_taken_and_not_one_more(house: House) -> None:
    made = house.made(**FIELD)
    voted(house, "many", generation=made["id"], liked=[0])
    document = house.client.get("/v1/taste/many/export").json()
    random = np.random.default_rng(0).normal(size=(10_000, 13)).astype("<f2")
    document["votes"] = [
        {
            "kind": "like",
            "generation": "g",
            "index": i,
            "over": None,
            "direction": base64.b64encode(row.tobytes()).decode(),
        }
        for i, row in enumerate(random)
    ]
    assert house.client.put("/v1/taste/many", json=document).json()["liked"] == 10_000
    assert reranked(house, made, taste={"profile": "many"})["data"]
    answer = house.post("/v1/taste/many/votes", json={"generation": made["id"], "liked": [1]})
    is_problem(answer, 422, "invalid_request", "#")
    document["votes"].append(document["votes"][0])
    is_problem(house.client.put("/v1/taste/many", json=document), 422, "invalid_request", "#/votes")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"votes": []}, "#/votes"),
        ({"centre": "AAAA"}, "#/centre"),
        ({"centre": "!"}, "#/centre"),
        ({"fields": 0}, "#/fields"),
        ({"votes": [{"kind": "like", "generation": "g", "index": 0, "direction": "AAAA"}]}, "#/votes/0/direction"),
        (
            {"votes": [{"kind": "like", "generation": "g", "index": 0, "direction": NANS}]},
            "#/votes/0/direction",
        ),
        ({"votes": [{"kind": "prefer", "generation": "g", "index": 0, "direction": ""}]}, "#/votes/0"),
        ({"votes": [{"kind": "like", "generation": "g", "index": 0, "over": 1, "direction": ""}]}, "#/votes/0"),
        ({"votes": [{"kind": "love", "generation": "g", "index": 0, "direction": ""}]}, "#/votes/0/kind"),
    ],
)  # fmt: skip
def test_profiles_that_are_none(house: House, change: dict[str, Any], pointer: str) -> None:
    voted(house, "whole", generation=house.made()["id"], liked=[0])
    document = house.client.get("/v1/taste/whole/export").json()
    is_problem(house.client.put("/v1/taste/broken", json=document | change), 422, "invalid_request", pointer)


@pytest.mark.parametrize(
    ("ballot", "status", "code", "pointer"),
    [
        ({}, 422, "invalid_request", "#"),
        ({"liked": [3]}, 404, "not_found", "#/liked/0"),
        ({"disliked": [0, 7]}, 404, "not_found", "#/disliked/1"),
        ({"preferred": [[0, 9]]}, 404, "not_found", "#/preferred/0/1"),
        ({"preferred": [[1, 1]]}, 422, "invalid_request", "#/preferred/0"),
        ({"preferred": [[1, 2], [2, 1]]}, 422, "invalid_request", "#/preferred/0"),
        ({"liked": [1], "disliked": [0, 1]}, 422, "invalid_request", "#/disliked/1"),
        ({"preferred": [[1]]}, 422, "invalid_request", "#/preferred/0"),
        ({"liked": [-1]}, 422, "invalid_request", "#/liked/0"),
        ({"generation": NOWHERE, "liked": [0]}, 404, "not_found", "#/generation"),
    ],
)
def test_votes_that_do_not_fit(house: House, ballot: dict[str, Any], status: int, code: str, pointer: str) -> None:
    answer = house.post("/v1/taste/bad/votes", json={"generation": house.made()["id"], **ballot})
    is_problem(answer, status, code, pointer)
    is_problem(house.client.get("/v1/taste/bad"), 404, "not_found")


def test_a_profile_has_a_plain_name(house: House) -> None:
    for name in ("a b", ".x", "x" * 65, "%00"):
        is_problem(house.client.get(f"/v1/taste/{name}"), 422, "invalid_request", "profile")


def test_the_same_vote_of_many_at_once_counts_once(house: House) -> None:
    made = house.made(**FIELD)
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda _: voted(house, "crowd", generation=made["id"], liked=[0]), range(6)))
    assert {one["liked"] for one in told} == {1}
    assert len(house.client.get("/v1/taste/crowd/export").json()["votes"]) == 1


@pytest.mark.parametrize("votes", [10_000, 10_001])
def test_a_profile_of_faulty_votes_is_refused_at_the_first(house: House, votes: int) -> None:
    profile = {"scorer": "a", "revision": "b", "centre": "", "fields": 1, "votes": [1] * votes}
    answer = house.client.put("/v1/taste/faulty", json=profile)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 1
