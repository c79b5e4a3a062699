"""Other words, weights and pictures for candidates that are there already."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.api.kit import House, is_problem, until

NOWHERE = "gen_00000000000000000000000000"
OWN = {"n_candidates": 12, "n": 4, "negative_prompt": "blue", "ranking": {"negatives": [{"text": "dark"}]}}


def uri(colour: str, mode: str = "RGB", form: str = "PNG", size: tuple[int, int] = (40, 30)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


TOP_LEVEL = {"n", "store", "include_pruned"}


def request_of(asked: dict[str, Any]) -> dict[str, Any]:
    """The body of a re-ranking: everything but what stands beside it is part of `ranking`."""
    top = {k: v for k, v in asked.items() if k in TOP_LEVEL}
    return {**top, "ranking": {k: v for k, v in asked.items() if k not in TOP_LEVEL}}


def reranked(house: House, made: dict[str, Any], **asked: Any) -> dict[str, Any]:
    answer = house.post(f"/v1/generations/{made['id']}/rerank", json=request_of(asked))
    assert answer.status_code == (201 if asked.get("store") else 200), answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"pruning": [{"at": 1, "keep": 8}, {"at": 2, "keep": 5}]},
        {"ranking": {"diversity": 0.5, "min_score": -1.0, "negatives": [{"text": "dark", "weight": 2.0}]}},
    ],
)
def test_the_same_settings_give_the_same_order_and_scores(house: House, asked: dict[str, Any]) -> None:
    made = house.made(**{**OWN, **asked})
    again = reranked(house, made)
    assert again["data"] == made["data"]
    assert (again["margin"], again["low_confidence"]) == (made["margin"], made["low_confidence"])
    assert [c["rank"] for c in again["candidates"]] == [c["rank"] for c in made["candidates"]]
    assert set(again["work"].values()) == {0}
    assert reranked(house, made, prompt="a red apple")["data"] == made["data"]


def test_words_that_the_scorer_does_not_know_are_told_of(house: House) -> None:
    signs = "\N{RED APPLE}" * 4000
    made = house.made(**{**OWN, "prompt": signs})
    assert [w["code"] for w in made["warnings"]].count("prompt_not_recognised") == 1
    again = reranked(house, made, prompt="red", negatives=[{"text": "\N{DUCK}"}])
    assert [w["code"] for w in again["warnings"]].count("negative_not_recognised") == 1
    ranked = house.post("/v1/rank", json={"prompt": signs, "images": [uri("red")]}).json()
    assert [w["code"] for w in ranked["warnings"]].count("prompt_not_recognised") == 1


def test_other_words_give_another_order_without_sampling(house: House) -> None:
    made = house.made(**OWN)
    until(lambda: house.live == 0)
    calls = len(house.generator.calls)
    body = reranked(
        house, made, prompt="green", negatives=[{"text": "red", "weight": 3.0}],
        negative_weight=1.0, n=12,
    )  # fmt: skip
    assert len(house.generator.calls) == calls
    assert (body["id"], body["prompt"], body["object"]) == (made["id"], "a red apple", "generation")
    assert body["ranking"]["prompt"] == "green"
    assert body["ranking"]["negatives"] == [{"text": "red", "weight": 3.0}]
    assert [image["index"] for image in body["data"]] != [
        image["index"] for image in reranked(house, made, n=12)["data"]
    ]
    scores = [image["score"] for image in body["data"]]
    assert scores == sorted(scores, reverse=True)
    first = body["data"][0]
    assert first["score"] == pytest.approx(first["similarity"] - first["penalty"], abs=1e-6)
    assert house.client.get(f"/v1/generations/{made['id']}").json() == made


def test_weights_alone_leave_the_pruned_out_and_other_words_let_them_in(house: House) -> None:
    made = house.made(n_candidates=12, n=3, pruning=[{"at": 2, "keep": 4}])
    pruned = {c["index"] for c in made["candidates"] if c["pruned_at_step"]}

    def returned(**asked: Any) -> list[dict[str, Any]]:
        return list(reranked(house, made, n=12, **asked)["data"])

    assert len(returned(negative_weight=2.0)) == 4
    everyone = returned(prompt="blue")
    assert {image["index"] for image in everyone if image["score_is_preview"]} == pruned
    assert len(everyone) == len(returned(include_pruned=True)) == 12
    assert len(returned(prompt="blue", include_pruned=False)) == 4
    for asked, code in (({}, "fewer_returned"), ({"min_score": 1.0}, "below_min_score")):
        assert code in [w["code"] for w in reranked(house, made, n=12, negative_weight=2.0, **asked)["warnings"]]


def test_a_stored_reranking_is_a_generation_of_its_own(house: House) -> None:
    made = house.made(**OWN)
    asked = {"ranking": {"prompt": "green"}, "n": 2, "store": True}
    answer = house.post(f"/v1/generations/{made['id']}/rerank", json=asked)
    body = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/generations/{body['id']}")
    assert body["parent"] == {"kind": "rerank", "generation": made["id"], "index": None}
    assert house.client.get(answer.headers["location"]).json() == body
    assert house.client.delete(f"/v1/generations/{made['id']}").status_code == 204
    for image in body["data"]:
        assert house.client.get(image["url"]).status_code == 200
    assert reranked(house, body)["data"] == body["data"]
    walk = house.client.get(f"/v1/generations/{body['id']}/lineage").json()
    assert ([g["id"] for g in walk["data"]], walk["missing"]) == ([body["id"]], made["id"])
    assert house.client.get(f"/v1/generations/{body['id']}/events").text.count("event: succeeded") == 1


def test_a_dialogue_is_walked_back_to_its_root(house: House) -> None:
    root = house.made(**OWN)
    child = reranked(house, root, prompt="green", store=True)
    leaf = reranked(house, child, prompt="blue", store=True)
    walk = house.client.get(f"/v1/generations/{leaf['id']}/lineage").json()
    assert [g["id"] for g in walk["data"]] == [root["id"], child["id"], leaf["id"]]
    assert walk["missing"] is None
    assert walk["data"] == [root, child, leaf]


def test_diversity_returns_none_that_is_nearly_another(house: House) -> None:
    made = house.made(n_candidates=8, n=8, steps=1)
    alike = reranked(house, made, n=8)
    for candidate in alike["candidates"]:
        best = candidate["duplicate_of"]
        assert best is None or alike["candidates"][best]["score"] >= candidate["score"]
    assert alike["candidates"] == made["candidates"]


def test_references_pull_towards_them_and_push_away(house: House) -> None:
    made = house.made(**OWN)
    other = house.made(prompt="green", seed=99, n_candidates=2)
    asked = [
        {"image": uri("lime"), "weight": 5.0},
        {"generation": other["id"], "index": 1, "weight": 0.5},
        {"image": uri("red", "CMYK", "JPEG", (9, 200)), "weight": -2.0},
    ]
    body = reranked(house, made, references=asked, negative_weight=1.0)
    assert body["ranking"]["references"] == [
        {"generation": None, "index": None, "weight": 5.0},
        {"generation": other["id"], "index": 1, "weight": 0.5},
        {"generation": None, "index": None, "weight": -2.0},
    ]
    first = body["data"][0]
    lime, green, red = (r["similarity"] for r in first["references"])
    mixed = (first["prompt_similarity"] + 5 * lime + 0.5 * green) / 6.5
    assert first["similarity"] == pytest.approx(mixed, abs=1e-5)
    hostile = [*((n["weight"], n["similarity"]) for n in first["negatives"]), (2.0, red)]
    penalty = sum(w * max(0, s) for w, s in hostile) / sum(w for w, _ in hostile)
    assert first["penalty"] == pytest.approx(penalty, abs=1e-5)
    assert first["score"] == pytest.approx(first["similarity"] - first["penalty"], abs=1e-5)
    assert [i["index"] for i in body["data"]] != [i["index"] for i in made["data"]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1"])
@pytest.mark.parametrize("size", [(1, 1), (300, 2), (64, 64)])
def test_references_of_any_size_and_mode(house: House, mode: str, size: tuple[int, int]) -> None:
    body = reranked(house, house.made(), references=[{"image": uri("white", mode, "PNG", size), "weight": 1.0}])
    plain = reranked(house, house.made(), references=[{"image": uri("white"), "weight": 1.0}])
    told, expected = ([image["references"][0]["similarity"] for image in b["data"]] for b in (body, plain))
    assert told == pytest.approx(expected, abs=0.01)


def test_generations_and_uploads_are_ranked_by_references_too(house: House) -> None:
    references = [{"image": uri("lime"), "weight": 4.0}]
    made = house.made(**{**OWN, "ranking": {"references": references}})
    plain = house.made(**{**OWN, "ranking": {}})
    assert made["data"][0]["references"][0]["weight"] == 4.0
    assert reranked(house, plain, references=references)["data"][0]["score"] == made["data"][0]["score"]
    assert reranked(house, made)["data"] == made["data"]
    asked = {"prompt": "colour", "images": [uri("red"), uri("lime")], "ranking": {"references": references}}
    ranked = house.post("/v1/rank", json=asked).json()["data"]
    assert [image["index"] for image in ranked] == [1, 0]
    assert ranked[0]["references"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_uploads_stand_as_the_candidates_they_are(house: House) -> None:
    made = house.made(**OWN, response_format="b64_json")
    asked = {"prompt": "a red apple", "negative_prompt": "blue", "ranking": OWN["ranking"]}
    best = [image["b64_json"] for image in made["data"]]
    files = [f"data:image/png;base64,{data}" for data in (*reversed(best), best[0])]
    ranked = house.post("/v1/rank", json={**asked, "images": files}).json()
    assert [image["index"] for image in ranked["data"]] == [3, 4, 2, 1, 0]
    assert [image["rank"] for image in ranked["data"]] == [1, 2, 3, 4, 5]
    assert ranked["data"][1]["duplicate_of"] == 3
    for told, own in zip(ranked["data"][1:], made["data"], strict=True):
        assert told["score"] == pytest.approx(own["score"], abs=0.01)
        assert [n["similarity"] for n in told["negatives"]] == pytest.approx(
            [n["similarity"] for n in own["negatives"]], abs=0.01
        )
    turned = house.post("/v1/rank", json={"prompt": "red", "negative_prompt": "red", "images": [uri("red")]}).json()
    assert [warning["code"] for warning in turned["warnings"]] == ["negative_contradicts_prompt"]
    assert turned["data"][0]["penalty"] > 0


def test_what_has_no_result_cannot_be_ranked_again(house: House) -> None:
    running = house.queued(n_candidates=64, steps=150)
    for name, status, code in (
        (NOWHERE, 404, "not_found"),
        ("gen_x", 404, "not_found"),
        (running["id"], 409, "not_ready"),
    ):
        is_problem(house.post(f"/v1/generations/{name}/rerank", json={}), status, code)
    asked = {"references": [{"generation": running["id"], "index": 0}]}
    made = house.made()
    answer = house.post(f"/v1/generations/{made['id']}/rerank", json=request_of(asked))
    is_problem(answer, 409, "not_ready", "#/ranking/references/0/generation")
    house.client.delete(f"/v1/generations/{running['id']}")
    answer = house.post(f"/v1/generations/{made['id']}/rerank", json=request_of(asked))
    is_problem(answer, 404, "not_found", "#/ranking/references/0/generation")


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"prompt": " "}, "#/ranking/prompt"),
        ({"prompt": "x" * 5000}, "#/ranking/prompt"),
        ({"n": 4}, "#/n"),
        ({"n": 0}, "#/n"),
        ({"negatives": [{"text": ""}]}, "#/ranking/negatives/0/text"),
        ({"negatives": [{"text": "x", "weight": 0}]}, "#/ranking/negatives/0/weight"),
        ({"negatives": [{"text": "x"}] * 17}, "#/ranking/negatives"),
        ({"negative_weight": -1}, "#/ranking/negative_weight"),
        ({"diversity": 1.1}, "#/ranking/diversity"),
        ({"min_score": 21}, "#/ranking/min_score"),
        ({"min_probability": 0.5}, "#/ranking/min_probability"),
        ({"balance": {"attribute": "a", "values": {"red": 1}}}, "#/ranking/balance/values"),
        ({"balance": {"attribute": "a", "values": {"red": 0.5, "blue": 0.4}}}, "#/ranking/balance/values"),
        ({"balance": {"attribute": "a", "values": {"red": 0.5, " ": 0.5}}}, "#/ranking/balance/values/%20"),
        ({"balance": {"attribute": "a", "values": {"red": 0.5, "blue": 0.5}}, "diversity": 0.5}, "#/ranking/balance"),
        ({"min_probability": 1.1}, "#/ranking/min_probability"),
        ({"colour": "red"}, "#/ranking/colour"),
        ({"references": [{"image": "data:,x", "generation": NOWHERE, "index": 0}]}, "#/ranking/references/0"),
        ({"references": [{"generation": NOWHERE}]}, "#/ranking/references/0"),
        ({"references": [{"image": uri("red"), "weight": 0}]}, "#/ranking/references/0/weight"),
        ({"references": [{"image": uri("red"), "weight": 11}]}, "#/ranking/references/0/weight"),
        ({"references": [{"image": uri("red")}] * 9}, "#/ranking/references"),
    ],
)
def test_rerankings_that_do_not_fit(house: House, asked: dict[str, Any], pointer: str) -> None:
    answer = house.post(f"/v1/generations/{house.made()['id']}/rerank", json=request_of(asked))
    is_problem(answer, 422, "invalid_request", pointer)


def test_references_that_are_no_pictures(house: House) -> None:
    made = house.made()
    for picture, status, code in (
        ("data:image/png;base64,AAAA", 400, "bad_image"),
        ("http://example.com/a.png", 400, "bad_image"),
        (uri("red", "L", "PNG", (4000, 4000)), 413, "too_large"),
    ):
        asked = {"references": [{"image": uri("red")}, {"image": picture}]}
        answer = house.post(f"/v1/generations/{made['id']}/rerank", json=request_of(asked))
        is_problem(answer, status, code, "#/ranking/references/1/image")
        answer = house.post(json={"prompt": "x", "ranking": asked})
        is_problem(answer, status, code, "#/ranking/references/1/image")
    beyond: dict[str, Any] = {"generation": made["id"], "index": 3}
    asked = {"references": [beyond]}
    answer = house.post(f"/v1/generations/{made['id']}/rerank", json=request_of(asked))
    is_problem(answer, 404, "not_found", "#/ranking/references/0/index")


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("prompt", "green", "prompt"),
        ("negatives", [{"text": "red"}], "negatives"),
        ("negative_prompt", "red", "negatives"),
        ("negative_weight", 1.0, "negative_weight"),
        ("references", [], "references"),
        ("taste", None, "taste"),
        ("diversity", 0.5, "diversity"),
        ("min_score", None, "min_score"),
    ],
)
def test_flat_fields_are_refused_with_their_new_place(house: House, field: str, value: Any, place: str) -> None:
    answer = house.post(f"/v1/generations/{house.made()['id']}/rerank", json={field: value, "n": 1})
    is_problem(answer, 422, "invalid_request", f"#/{field}")
    assert f"ranking.{place}" in answer.json()["errors"][0]["detail"]


def test_omitted_fields_keep_and_null_clears(house: House) -> None:
    own = {
        "negative_weight": 2.0,
        "negatives": [{"text": "dark"}],
        "diversity": 0.4,
        "min_score": -1.0,
        "prompt": "red",
        "veto": ["artefact"],
        "uncertainty": 1.5,
        "contrast": True,
        "cascade": 3,
    }
    made = house.made(n_candidates=6, n=6, negative_prompt="blue", ranking=own)
    kept = reranked(house, made)["ranking"]
    assert kept == made["ranking"]
    assert [n["text"] for n in kept["negatives"]] == ["blue", "dark"]
    assert (kept["prompt"], made["prompt"]) == ("red", "a red apple")
    cleared = reranked(house, made, **dict.fromkeys(own))["ranking"]
    assert cleared == {
        "prompt": "a red apple", "negatives": [], "negative_weight": 0.5, "references": [], "taste": None,
        "diversity": 0.0, "min_score": None, "veto": [], "scorers": [], "uncertainty": 0.5, "contrast": False,
        "near_misses": [], "cascade": None, "min_probability": None, "balance": None,
    }  # fmt: skip


def test_every_request_takes_the_same_ranking(house: House) -> None:
    ranking = {"prompt": "green", "negatives": [{"text": "red", "weight": 2.0}], "negative_weight": 1.0}
    made = house.made(n_candidates=4, n=4, seed=7)
    first = house.made(n_candidates=4, n=4, seed=7, ranking=ranking)
    again = reranked(house, made, **ranking)
    assert [i["score"] for i in first["data"]] == pytest.approx([i["score"] for i in again["data"]], abs=1e-6)
    refined = house.post(f"/v1/generations/{made['id']}/refine", json={"index": 0, "ranking": ranking}).json()
    ranked = house.post("/v1/rank", json={"prompt": "x", "ranking": ranking, "images": [uri("green")]}).json()
    for answer in (first, again, refined, ranked):
        assert answer["ranking"]["prompt"] == "green"
        assert answer["ranking"]["negatives"] == ranking["negatives"]
