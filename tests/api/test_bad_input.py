"""Bad input gets the documented 4xx with a pointer, or works where it should; then the next request is served."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.kit import PROMPT, House, is_problem, running
from tests.servers import PATIENCE_S

pytestmark = [pytest.mark.usefixtures("served_afterwards"), pytest.mark.slow]

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{nope", id="not-json"),
        pytest.param(b"\xff\xfe\x00", id="not-unicode"),
        pytest.param(b"[" * 100_000, id="too-deep"),
        pytest.param(b'{"prompt": "\xed\xa0\x80"}', id="encoded-surrogate"),
        pytest.param('{"prompt": "x"}'.encode("utf-16"), id="utf-16"),
        pytest.param('{"prompt": "x"}'.encode("utf-32-le"), id="utf-32"),
        pytest.param(b'{"prompt": "a\nb"}', id="raw-newline"),
        pytest.param(b'{"prompt": "x",}', id="trailing-comma"),
        pytest.param(b'{"prompt": "x"} {}', id="two-documents"),
        pytest.param(b'{"prompt": 0x10}', id="hexadecimal"),
        pytest.param(b"{'prompt': 'x'}", id="single-quotes"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/generations", "/v1/images/generations", "/v1/rank"])
def test_what_is_not_json(house: House, path: str, body: bytes) -> None:
    answer = house.post(path, content=body, headers=JSON)
    assert (
        is_problem(answer, 400, "invalid_json")["detail"]
        == "the body is not valid JSON: send one JSON document in UTF-8"
    )


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param('{"prompt": "x", "n": 1, "prompt": "y"}', "prompt", id="at-the-top"),
        pytest.param('{"prompt": "x", "ranking": {"diversity": 0, "diversity": 0}}', "diversity", id="inside"),
        pytest.param('{"prompt": "x", "\\u0070rompt": "y"}', "prompt", id="escaped"),
        pytest.param('{"prompt": "x", "\\ud800": 1, "\\ud800": 1}', "\ud800", id="no-text"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/generations", "/v1/images/generations", "/v1/rank"])
def test_a_member_that_comes_twice(house: House, path: str, body: str, name: str) -> None:
    told = is_problem(house.post(path, content=body, headers=JSON), 400, "invalid_json")
    assert told["detail"] == f"the member {name!r} is repeated in one object: send it once"


def test_a_member_that_comes_twice_in_a_form(house: House) -> None:
    form = {"prompt": "x", "ranking": '{"diversity": 0, "diversity": 1}'}
    answer = house.post("/v1/rank", data=form, files={"images": b"x"})
    is_problem(answer, 422, "invalid_request", "#/ranking")


def test_a_byte_order_mark_is_skipped(house: House) -> None:
    assert house.post(content=b"\xef\xbb\xbf" + json.dumps(PROMPT).encode(), headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "pointer"),
    [
        pytest.param("prompt", "", "#/prompt", id="empty"),
        pytest.param("prompt", " \n\t ", "#/prompt", id="blank"),
        pytest.param("prompt", "\u200b\ufeff", "#/prompt", id="unseen"),
        pytest.param("prompt", "a" * 10_000, "#/prompt", id="10000-characters"),
        pytest.param("prompt", "a\x00b", "#/prompt", id="nul"),
        pytest.param("prompt", "a\x1b[31mb", "#/prompt", id="escape"),
        pytest.param("prompt", "a\x85b", "#/prompt", id="c1-control"),
        pytest.param("prompt", "\ud800", "#/prompt", id="half-a-surrogate-pair"),
        pytest.param("prompt", 7, "#/prompt", id="prompt-a-number"),
        pytest.param("prompt", None, "#/prompt", id="prompt-null"),
        pytest.param("negative_prompt", "a\x07", "#/negative_prompt", id="negative-bell"),
        pytest.param("negative_prompt", "a" * 10_000, "#/negative_prompt", id="negative-long"),
        pytest.param("n", 0, "#/n", id="n-0"),
        pytest.param("n", 4, "#/n", id="n-above-n_candidates"),
        pytest.param("n", 1.5, "#/n", id="n-a-fraction"),
        pytest.param("n", "1", "#/n", id="n-a-text"),
        pytest.param("n", True, "#/n", id="n-a-bool"),
        pytest.param("n_candidates", 0, "#/n_candidates", id="N-0"),
        pytest.param("n_candidates", 65, "#/n_candidates", id="N-above-the-limit"),
        pytest.param("n_candidates", 10**30, "#/n_candidates", id="N-huge"),
        pytest.param("steps", 0, "#/steps", id="steps-0"),
        pytest.param("steps", 151, "#/steps", id="steps-above-the-limit"),
        pytest.param("guidance_scale", -1, "#/guidance_scale", id="guidance-negative"),
        pytest.param("guidance_scale", 51, "#/guidance_scale", id="guidance-above-the-limit"),
        pytest.param("guidance_scale", float("nan"), "#/guidance_scale", id="guidance-nan"),
        pytest.param("guidance_scale", float("inf"), "#/guidance_scale", id="guidance-inf"),
        pytest.param("size", "60x64", "#/size", id="size-not-a-multiple"),
        pytest.param("size", "0x64", "#/size", id="size-0"),
        pytest.param("size", "99992x64", "#/size", id="size-huge"),
        pytest.param("size", "64", "#/size", id="size-one-number"),
        pytest.param("size", "auto", "#/size", id="size-auto-is-openais"),
        pytest.param("sampler", "magic", "#/sampler", id="sampler-unknown"),
        pytest.param("seed", -2, "#/seed", id="seed-negative"),
        pytest.param("seed", 2**64, "#/seed", id="seed-too-large"),
        pytest.param("ranking", {"negatives": [{"text": "a", "weight": 0}]}, "#/ranking/negatives/0/weight", id="w-0"),
        pytest.param("ranking", {"negatives": [{"text": "a"}, {}]}, "#/ranking/negatives/1/text", id="no-text"),
        pytest.param("ranking", {"negatives": [{"text": "a"}] * 17}, "#/ranking/negatives", id="many-negatives"),
        pytest.param("ranking", {"diversity": 2}, "#/ranking/diversity", id="diversity-2"),
        pytest.param("ranking", {"best": 1}, "#/ranking/best", id="unknown-inside"),
        pytest.param("ranking", None, "#/ranking", id="ranking-null"),
        pytest.param("pruning", "maybe", "#/pruning", id="pruning-unknown"),
        pytest.param("pruning", [{"at": 9, "keep": 1}], "#/pruning/0", id="checkpoint-after-the-end"),
        pytest.param("pruning", [{"at": 0}], "#/pruning/0/at", id="checkpoint-0"),
        pytest.param("response_format", "file", "#/response_format", id="response-format"),
        pytest.param("output_format", "gif", "#/output_format", id="output-format"),
        pytest.param("promt", "x", "#/promt", id="unknown-field"),
        pytest.param("a/b~c", "x", "#/a~1b~0c", id="pointer-escapes"),
    ],
)
def test_fields_out_of_range(house: House, field: str, value: Any, pointer: str) -> None:
    body = json.dumps({**PROMPT, field: value})
    answer = house.post(content=body, headers=JSON)
    found = is_problem(answer, 422, "invalid_request", pointer)
    assert "x" * 50 not in answer.text
    assert found["error"]["param"] is not None


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ("n_candidates", "send a value between 1 and 64"),
        ("n", "send a value between 1 and 3"),
        ("steps", "send a value between 1 and 150"),
        ("guidance_scale", "send a value between 0 and 50"),
        ("seed", "send a value between -1 and 18446744073709551615"),
        ("previews", "send a value between 0 and 10"),
    ],
)
@pytest.mark.parametrize("digits", ["9" * 6, "9" * 24, "9" * 33, "9" * 5000])
def test_a_number_of_any_length_is_refused_with_the_limit_of_the_server(
    house: House, field: str, accepted: str, digits: str
) -> None:
    if field == "seed" and len(digits) == 6:
        digits = str(2**64)
    members = {**PROMPT, field: 0}
    body = json.dumps(members).replace(f'"{field}": 0', f'"{field}": {digits}')
    found = is_problem(house.post(content=body, headers=JSON), 422, "invalid_request", f"#/{field}")
    assert found["errors"][0]["detail"].endswith(accepted)
    assert len(found["detail"]) < 200


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/images/generations", {"prompt": "x"}),
        ("/v1/audits", {"prompt": "x", "attributes": [{"name": "a", "values": ["b", "c"]}]}),
    ],
)
def test_every_route_names_the_same_limit(house: House, path: str, asked: dict[str, Any]) -> None:
    for value in (65, 10**6, 10**23):
        answer = house.post(path, json={**asked, "n_candidates": value})
        found = is_problem(answer, 422, "invalid_request", "#/n_candidates")
        assert found["errors"][0]["detail"].endswith("and 64")


def test_a_checkpoint_after_the_end_names_the_steps(house: House) -> None:
    for value in (9, 10**6, 10**23, 10**40):
        late, many = ({"at": value, "keep": 2}, {"at": 1, "keep": value})
        for cut, told in (
            (late, "`at` must be less than the number of steps, 4"),
            (many, "`keep` must be at most 3, the number of candidates left at this checkpoint"),
        ):
            answer = house.post(json={**PROMPT, "pruning": [cut]})
            assert is_problem(answer, 422, "invalid_request", "#/pruning/0")["detail"] == f"pruning.0: {told}"


@pytest.mark.parametrize(
    ("field", "value", "pointer", "detail"),
    [
        ("n_candidates", "some", "#/n_candidates", "the value is unknown: send 'auto' or a whole number"),
        ("n_candidates", 1.5, "#/n_candidates", "the value is unknown: send 'auto' or a whole number"),
        ("n", "2", "#/n", "the value must be a whole number"),
        ("pruning", "some", "#/pruning", "the value is unknown: send 'auto' or 'off' or a list"),
        ("variants", 5, "#/variants", "the value must be a list or an object"),
        ("previews", 11, "#/previews", "11 is out of range; send a value between 0 and 10"),
        (
            "size",
            "100000x1",
            "#/size",
            "the text is not valid: send WIDTHxHEIGHT in pixels, such as 64x64; "
            "GET /v1/models has the `max_size` of each model",
        ),
        (
            "aspect_ratio",
            "0:1",
            "#/aspect_ratio",
            "the text is not valid: send WIDTH:HEIGHT such as 16:9, each from 1 to 9999",
        ),
        ("control", [{}] * 5, "#/control", "the list is too long: send at most 4"),
    ],
)
def test_of_two_kinds_the_nearer_is_told(house: House, field: str, value: Any, pointer: str, detail: str) -> None:
    found = is_problem(house.post(json={**PROMPT, field: value}), 422, "invalid_request", pointer)
    assert found["errors"] == [{"detail": detail, "pointer": pointer}]


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/images/generations"])
def test_the_size_of_an_example_is_accepted(house: House, path: str) -> None:
    for size in ("64", "big", "0x64"):
        found = is_problem(house.post(path, json={**PROMPT, "size": size}), 422, "invalid_request", "#/size")
        (example,) = re.findall(r"such as (\w+)", found["detail"])
        assert house.post(path, json={**PROMPT, "size": example, "fit": "exact"}).status_code == 200, example


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        pytest.param("/v1/rank", {"prompt": "a", "images": [1] * 8000}, "#/images", id="images"),
        pytest.param(
            "/v1/generations",
            {"prompt": "a", "ranking": {"negatives": [1] * 8000}},
            "#/ranking/negatives/0",
            id="nested",
        ),
        pytest.param("/v1/generations", {"prompt": "a"} | {f"x{i}": 1 for i in range(9000)}, "#", id="members"),
    ],
)
def test_a_thousand_faults_are_one_short_answer(house: House, path: str, body: Any, pointer: str) -> None:
    answer = house.post(path, json=body)
    told = is_problem(answer, 422, "invalid_request")
    assert [e["pointer"] for e in told["errors"]] == [pointer]


def test_only_the_first_fifty_faults_are_told(house: House) -> None:
    told = is_problem(house.post("/v1/rank", json={"prompt": "a", "images": [1] * 1000}), 422, "invalid_request")
    assert [e["pointer"] for e in told["errors"]] == [f"#/images/{i}" for i in range(50)]


def test_field_names_that_are_no_text(house: House) -> None:
    is_problem(house.post(content=b'{"prompt": "x", "\\ud800": 1}', headers=JSON), 422, "invalid_request")


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"7", b"{}"])
def test_json_that_is_no_request(house: House, body: bytes) -> None:
    is_problem(house.post(content=body, headers=JSON), 422, "invalid_request")


def test_unknown_model(house: House) -> None:
    is_problem(house.post(json={**PROMPT, "model": "other"}), 404, "not_found", "#/model")


@pytest.mark.parametrize("prompt", ["\u202eשלום עולם", "🍎👩‍🚀 a red apple", "a\tred\r\napple", "苹果", "a" * 4000])
def test_texts_that_work(house: House, prompt: str) -> None:
    assert house.made(prompt=prompt)["prompt"] == prompt


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_wrong_media_type(house: House, kind: str) -> None:
    answer = house.post(content=b'{"prompt": "x"}', headers={"content-type": kind})
    is_problem(answer, 415, "unsupported_media")


@pytest.mark.parametrize("accept", ["text/html", "image/avif", "application/json;q=0", "image/*;q=0, video/mp4"])
def test_nothing_acceptable(house: House, accept: str) -> None:
    is_problem(house.post(json=PROMPT, headers={"accept": accept}), 406, "not_acceptable")


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "gen_%00",
        "gen_01",
        "gen_" + "A" * 10_000,
        "gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH/../x",
    ],
)
def test_ids_that_are_none(house: House, path: str) -> None:
    for rest in ("", "/events", "/images/0"):
        is_problem(house.client.get(f"/v1/generations/{path}{rest}"), 404, "not_found")
    is_problem(house.client.delete(f"/v1/generations/{path}"), 404, "not_found")


def test_wrong_addresses_and_methods(house: House) -> None:
    is_problem(house.client.get("/nowhere"), 404, "not_found")
    is_problem(house.client.get("/v1/generations//"), 404, "not_found")
    for method in ("PUT", "OPTIONS", "PATCH"):
        answer = house.client.request(method, "/v1/generations")
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/rank", "/nowhere"])
def test_large_bodies_declared_or_not(house: House, path: str) -> None:
    large = b" " * (3 * 2**20)
    is_problem(house.post(path, content=large, headers=JSON), 413, "too_large")
    chunks = (large[i : i + 65536] for i in range(0, len(large), 65536))
    answer = house.post(path, content=chunks, headers=JSON)
    is_problem(answer, *((404, "not_found") if path == "/nowhere" else (413, "too_large")))


def test_a_body_of_100_mb_is_refused_at_once(house: House) -> None:
    with _connection(house, content_length=100_000_000) as raw:
        raw.sendall(b"x" * 65536)
        assert raw.recv(65536).startswith(b"HTTP/1.1 413 "), "before the rest of it was sent"


def test_a_slow_body_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, body_timeout_s=1) as house, _connection(house, content_length=10**6) as raw:
        while (answer := _arrived(raw)) is None:
            time.sleep(0.1)
            raw.sendall(b"x")
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_connection_dropped_in_mid_request(house: House) -> None:
    for content in (b"", b'{"prompt": '):
        with _connection(house, content_length=1000) as raw:
            raw.sendall(content)


def _connection(house: House, content_length: int) -> socket.socket:
    raw = socket.create_connection(house.address, timeout=PATIENCE_S)
    lines = ("POST /v1/generations HTTP/1.1", "host: x", "content-type: application/json")
    raw.sendall("\r\n".join((*lines, f"content-length: {content_length}", "", "")).encode())
    return raw


def _arrived(raw: socket.socket) -> bytes | None:
    raw.settimeout(0.01)
    try:
        return raw.recv(65536)
    except TimeoutError:
        return None
