"""One address with four response modes, and generations after their end."""

from __future__ import annotations

import base64
import io
import re
from functools import partial

import httpx
import pytest
from PIL import Image

from tests.api.kit import PROMPT, House, events, is_problem, until

PICTURE = "data:image/webp;base64,"


def test_plain_waits_and_answers_everything(house: House) -> None:
    negatives = [{"text": "green", "weight": 2.0}]
    answer = house.post(
        json={**PROMPT, "n": 2, "negative_prompt": "blue", "ranking": {"negative_weight": 0.4, "negatives": negatives}}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert answer.headers["location"] == f"/v1/generations/{body['id']}"
    assert (body["object"], body["status"], body["seed"], body["size"], body["steps"]) == (
        "generation", "succeeded", 7, "64x64", 4,
    )  # fmt: skip
    assert [c["seed"] for c in body["candidates"]] == [7, 8, 9]
    first, second = body["data"]
    assert (first["rank"], second["rank"]) == (1, 2)
    assert first["score"] >= second["score"]
    assert first["score"] == pytest.approx(first["similarity"] - 0.4 * first["penalty"], abs=1e-6)
    assert [n["text"] for n in first["negatives"]] == ["blue", "green"]
    weighed = sum(n["weight"] * max(0, n["similarity"]) for n in first["negatives"]) / 3
    assert first["penalty"] == pytest.approx(weighed, abs=1e-6)
    assert body["work"]["rows_stepped"] == 12
    assert body["timings"]["total_ms"] > 0
    assert house.client.get(answer.headers["location"]).json() == body


def test_b64_json_holds_the_images(house: House) -> None:
    body = house.made(n=2, response_format="b64_json", output_format="webp")
    for item in body["data"]:
        assert item["url"] is None
        image = Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))
        assert (image.format, image.size) == ("WEBP", (64, 64))


def test_async_answers_at_once_and_the_result_comes_by_get(house: House) -> None:
    answer = house.post(json=PROMPT, headers={"prefer": "handling=strict, respond-async; x=1"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert int(answer.headers["retry-after"]) >= 1
    queued = answer.json()
    assert queued["status"] in {"queued", "running"}
    assert queued["queue_position"] is not None
    assert queued["progress"] == 0
    assert queued["data"] == []
    where = answer.headers["location"]
    until(lambda: house.client.get(where).json()["status"] == "succeeded")
    assert house.client.get(where).json()["queue_position"] is None
    assert house.client.get(where).json()["progress"] == 1


def test_auto_makes_waves_up_to_a_cap(house: House) -> None:
    body = house.made(n_candidates="auto", max_candidates=24, n=2)
    assert body["stopped"] == ("cap" if len(body["candidates"]) == 24 else "gain")
    assert len(body["candidates"]) in {8, 16, 24}
    least = house.made(n_candidates="auto", max_candidates=2, n=2)
    assert (least["stopped"], len(least["candidates"])) == ("cap", 2)
    assert [c["seed"] for c in body["candidates"]] == list(range(7, 7 + len(body["candidates"])))
    is_problem(house.post(json={**PROMPT, "max_candidates": 24}), 422, "invalid_request", "#/max_candidates")
    is_problem(house.post(json={**PROMPT, "n_candidates": "many"}), 422, "invalid_request", "#/n_candidates")


def test_stream_tells_the_whole_story_and_ends_with_the_result(house: House) -> None:
    answer = house.post(json={**PROMPT, "previews": 1}, headers={"accept": "text/event-stream"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    told = events(answer.text)
    kinds = [kind for kind, _, _ in told]
    assert kinds[:2] == ["queued", "started"]
    assert kinds.count("preview") == 3
    assert kinds.count("candidate") == 3
    assert kinds[-1] == "succeeded"
    assert [number for _, number, _ in told] == list(range(1, len(told) + 1))
    assert all(data["image"].startswith(PICTURE) for kind, _, data in told if kind == "preview")
    result = told[-1][2]
    assert answer.headers["location"] == f"/v1/generations/{result['id']}"
    assert result == house.client.get(answer.headers["location"]).json()


def test_previews_are_drawn_only_where_somebody_may_watch(house: House) -> None:
    asked = {**PROMPT, "n_candidates": 4, "pruning": [{"at": 2, "keep": 2}]}

    def pictures(path: str) -> list[str | None]:
        told = events(house.client.get(f"{path}/events").text)
        return [data["image"] for kind, _, data in told if kind == "preview"]

    def done(path: str) -> bool:
        return bool(house.client.get(path).json()["status"] == "succeeded")

    waited = f"/v1/generations/{house.post(json=asked).json()['id']}"
    assert pictures(waited) == [None] * 4
    for headers in ({"prefer": "respond-async"}, {"accept": "text/event-stream"}, {"idempotency-key": "drawn"}):
        answer = house.post(json=asked, headers=headers)
        path = answer.headers["location"]
        until(partial(done, path))
        assert [p is not None and p.startswith(PICTURE) for p in pictures(path)] == [True] * 4
    wanted = house.post(json={**asked, "previews": 1}).json()["id"]
    assert all(pictures(f"/v1/generations/{wanted}"))


def test_stream_can_end_with_the_images_themselves(house: House) -> None:
    answer = house.post(json={**PROMPT, "response_format": "b64_json"}, headers={"accept": "text/event-stream"})
    assert base64.b64decode(events(answer.text)[-1][2]["data"][0]["b64_json"]).startswith(b"\x89PNG")


def test_events_resume_after_the_last_one_seen(house: House) -> None:
    where = f"/v1/generations/{house.made()['id']}/events"
    whole = events(house.client.get(where).text)
    rest = events(house.client.get(where, headers={"last-event-id": "3"}).text)
    assert rest == whole[3:]
    for end in (len(whole), len(whole) + 1, 2**31 - 1):
        answer = house.client.get(where, headers={"last-event-id": str(end)})
        assert (answer.status_code, answer.text) == (204, ""), "an EventSource would come back for ever"
    is_problem(house.client.get(where, headers={"last-event-id": str(2**63)}), 422, "invalid_request", "last-event-id")
    is_problem(house.client.get(where, headers={"last-event-id": "x"}), 422, "invalid_request", "last-event-id")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("image/png", "PNG"),
        ("image/webp", "WEBP"),
        ("image/jpeg", "JPEG"),
        ("image/*", "WEBP"),
        ("image/avif, image/jpeg;q=0.5, image/png;q=0.4", "JPEG"),
        ("image/png, */*", "PNG"),
    ],
)
def test_image_answers_are_the_winners_bytes(house: House, accept: str, form: str) -> None:
    answer = house.post(json={**PROMPT, "output_format": "webp"}, headers={"accept": accept})
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).format == form
    assert answer.headers["content-type"] == f"image/{form.lower()}"
    result = house.client.get(f"/v1/generations/{answer.headers['x-frontrunner-id']}").json()
    assert answer.headers["x-frontrunner-seed"] == str(result["data"][0]["seed"])
    assert float(answer.headers["x-frontrunner-score"]) == pytest.approx(result["data"][0]["score"], abs=1e-6)


def test_an_image_that_nothing_is_good_enough_for_is_an_error(house: House) -> None:
    body = {**PROMPT, "ranking": {"min_score": 1.0}}
    answer = house.post(json=body, headers={"accept": "image/png"})
    is_problem(answer, 422, "nothing_above_min_score", "#/ranking/min_score")
    plain = house.post(json=body).json()
    assert plain["data"] == []
    assert "below_min_score" in [w["code"] for w in plain["warnings"]]


def test_png_tells_how_it_was_made(house: House) -> None:
    answer = house.post(json={**PROMPT, "provenance": "metadata"}, headers={"accept": "image/png"})
    told = str(Image.open(io.BytesIO(answer.content)).info)
    assert "a red apple" in told
    assert answer.headers["x-frontrunner-seed"] in told


def test_any_candidates_image_in_any_format_and_size(house: House) -> None:
    body = house.made()
    for index in range(3):
        where = f"/v1/generations/{body['id']}/images/{index}"
        answer = house.client.get(where, params={"format": "webp", "size": "32x32"})
        assert Image.open(io.BytesIO(answer.content)).size == (32, 32)
    assert house.client.get(body["data"][0]["url"]).headers["content-type"] == "image/png"
    is_problem(house.client.get(where, params={"size": "5000x5000"}), 422, "invalid_request", "#/size")
    is_problem(house.client.get(where, params={"size": "big"}), 422, "invalid_request", "size")
    is_problem(house.client.get(where, params={"format": "tiff"}), 422, "invalid_request", "format")
    is_problem(house.client.get(f"/v1/generations/{body['id']}/images/3"), 404, "not_found")


def test_images_are_cached_by_etag(house: House) -> None:
    where = house.made()["data"][0]["url"]
    answer = house.client.get(where)
    tag = answer.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]+"', tag)
    assert "immutable" in answer.headers["cache-control"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = house.client.get(where, headers={"if-none-match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert house.client.get(where, headers={"if-none-match": '"other"'}).status_code == 200


def test_head_is_get_without_a_body(house: House) -> None:
    body = house.made()
    own = f"/v1/generations/{body['id']}"
    places = (own, f"{own}/lineage", f"{own}/candidates/0/why", body["data"][0]["url"])
    for where in ("/healthz", "/readyz", "/v1/models", "/v1/presets", "/v1/taste", *places):
        head, get = house.client.head(where), house.client.get(where)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
    assert house.client.head("/v1/generations/nothing").status_code == 404


def test_delete_cancels_and_forgets(house: House) -> None:
    done = house.made()
    running = house.queued(n_candidates=64, steps=150)
    for body in (done, running):
        where = f"/v1/generations/{body['id']}"
        assert house.client.delete(where).status_code == 204
        for gone in (where, f"{where}/events", f"{where}/images/0"):
            is_problem(house.client.get(gone), 404, "not_found")
        is_problem(house.client.delete(where), 404, "not_found")
    until(lambda: house.live == 0)


def test_images_of_what_is_not_done_are_not_ready(house: House) -> None:
    body = house.queued(n_candidates=64, steps=150)
    is_problem(house.client.get(f"/v1/generations/{body['id']}/images/0"), 409, "not_ready")
    house.client.delete(f"/v1/generations/{body['id']}")


def test_rank_takes_files_and_data_uris_alike(house: House) -> None:
    pictures = [_picture("blue"), _picture("red"), _picture("green")]
    form = house.client.post(
        "/v1/rank",
        data={"prompt": "red", "negative_prompt": "green", "ranking": '{"negative_weight": 1}'},
        files=[("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(pictures)],
    )
    uris = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures]
    asked = {"prompt": "red", "negative_prompt": "green", "ranking": {"negative_weight": 1}, "images": uris}
    json = house.client.post("/v1/rank", json=asked)
    assert (form.status_code, json.status_code) == (200, 200)
    assert form.json() == json.json()
    body = json.json()
    assert [image["index"] for image in body["data"]] == [1, 0, 2]
    assert [image["rank"] for image in body["data"]] == [1, 2, 3]
    for image in body["data"]:
        assert image["score"] == pytest.approx(image["similarity"] - image["penalty"], abs=1e-6)


def test_models_in_openais_list_shape(house: House) -> None:
    body = house.client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("fake", "model", "frontrunner")
    assert model["generator"]["samplers"]
    assert body["limits"]["candidates"] == 64
    assert house.client.get("/v1/models/fake").json() == model
    is_problem(house.client.get("/v1/models/stabilityai/sd-turbo"), 404, "not_found")


def test_every_answer_names_its_request(house: House) -> None:
    given = house.client.get("/healthz", headers={"x-request-id": "from-the-balancer.1"})
    assert given.headers["x-request-id"] == "from-the-balancer.1"
    for header in ({}, {"x-request-id": "no good\u00e9"}):
        answer = house.client.get("/nowhere", headers=httpx.Headers(header, encoding="latin-1"))
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_metrics_count_by_route_and_outcome(house: House) -> None:
    before = house.client.get("/metrics").text
    house.made()
    house.client.get("/v1/generations/nothing")
    after = house.client.get("/metrics").text

    def value(text: str, start: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))

    for start, more in (
        ("frontrunner_rows_stepped_total", 12),
        ('frontrunner_generations_total{outcome="succeeded"}', 1),
        ('frontrunner_http_requests_total{method="POST",route="/v1/generations",status="200"}', 1),
        ('frontrunner_http_requests_total{method="GET",route="/v1/generations/{generation_id}",status="404"}', 1),
        ('frontrunner_http_seconds_count{method="POST",route="/v1/generations"}', 1),
    ):
        assert value(after, start) - value(before, start) == more, start
    assert value(after, "frontrunner_ready") == 1
    assert value(after, 'frontrunner_stage_seconds_total{stage="') > 0


def _picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()
