"""JSON of odd shapes costs little: what is wide, deep or long is refused before it is parsed, pictures are not."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.types import Message

from app.api import json_body
from app.api.json_body import MAX_VALUES, TEXT_BYTES, parse, read
from app.api.problems import InvalidJson
from tests.api.kit import House, is_problem

JSON = {"content-type": "application/json"}
MIB = 2**20
BASE64 = "iVBORw0KGgo/+AAA" * 200_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"prompt": [' + b"[[[]]]," * (4 * MIB) + b"1]}", id="lists"),
        pytest.param(b'{"prompt": [' + b"{}," * (8 * MIB) + b"1]}", id="objects"),
        pytest.param(b'{"prompt": "x", "images": [' + b'"",' * (8 * MIB) + b'""]}', id="empty-texts"),
        pytest.param(b"[" * (30 * MIB), id="deep"),
        pytest.param(b'{"prompt": "' + b"a" * (30 * MIB) + b'"}', id="long-text"),
        pytest.param(b'{"prompt": "' + b" " * (30 * MIB) + b'"}', id="long-blank"),
        pytest.param(b'{"prompt": "x"' + b" " * (30 * MIB) + b"}", id="spaces"),
        pytest.param(b'{"prompt": [' + (b"9" * 4200 + b",") * 7000 + b"1]}", id="long-integers"),
        pytest.param(b'["' + b'"data:",' * (4 * MIB) + b'""]', id="many-data-uris"),
        pytest.param(b'["data:' + b"\\u0041" * (5 * MIB) + b'"]', id="escapes-in-a-data-uri"),
        pytest.param(b'["data:' + "\N{RED APPLE}".encode() * (7 * MIB) + b'"]', id="emoji-in-a-data-uri"),
        pytest.param(b"[" + b"1," * (MAX_VALUES + 1) + b"1]", id="one-too-many"),
        pytest.param(b'"' + b"," * (MAX_VALUES + 1) + b'"', id="commas-in-a-text"),
    ],
)
def test_nothing_large_is_parsed_but_pictures(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(json, "loads", None)
    tracemalloc.start()
    try:
        with pytest.raises(HTTPException, match="413"):
            parse(body)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * len(body), "copies, but no tree"
    finally:
        tracemalloc.stop()


def arriving(data: bytes, size: int) -> tuple[Request, list[bytes]]:
    """A request whose body arrives in parts of this size, and the parts that have not arrived yet."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]

    async def receive() -> Message:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    return Request({"type": "http", "method": "POST", "headers": []}, receive), parts


def test_a_body_without_pictures_is_refused_while_it_arrives() -> None:
    lists = b'{"prompt": [' + b"[[[]]]," * (4 * MIB) + b"1]}"
    request, left = arriving(lists, 65_536)
    with pytest.raises(HTTPException, match="413"):
        asyncio.run(read(request))
    assert len(lists) - 65_536 * len(left) < TEXT_BYTES + 2 * 65_536
    request, _ = arriving(lists, 65_536)
    assert asyncio.run(read(request, None)) == lists, "where all may be long"


@given(
    st.lists(
        st.sampled_from([b'"', b"data:", b'"data:a,', b"/9j", b"\\/9j", b"x", b",", b'\\"', BASE64[:20].encode()])
    ),
    st.integers(1, 40),
)
def test_what_has_arrived_is_never_counted_high(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    counter = json_body._TextCounter()
    counted = [counter.add(data[at : at + size]) for at in range(0, len(data), size)]
    assert max(counted, default=0) <= len(json_body._without_images(data))
    request, _ = arriving(data or b" ", size)
    assert asyncio.run(read(request)) == (data or b" ")


@pytest.mark.parametrize("slashes", ["/", "\\/"])
def test_pictures_are_read_whole(slashes: str) -> None:
    uri = f"data:image/png;base64,{BASE64}"
    text = json.dumps({"prompt": 'say "data:x", or \\', "images": [uri, uri, "data:,"]}).replace("/", slashes)
    assert len(text) > 2 * TEXT_BYTES
    assert parse(text.encode()) == {"prompt": 'say "data:x", or \\', "images": [uri, uri, "data:,"]}


def test_where_all_may_be_long() -> None:
    assert len(parse(b'"' + b"a" * (3 * MIB) + b'"', None)) == 3 * MIB
    with pytest.raises(HTTPException, match="413"):
        parse(b'"' + b"a" * (3 * MIB) + b'"')


@pytest.mark.parametrize("value", [{"a": [1, -2.5e3, True, None, "\u00e9\ud800"]}, [], "x", 10**31, float("inf")])
def test_what_is_small_is_read_as_ever(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize("digits", [33, 5000, 1_000_000])
def test_an_integer_of_any_length_is_above_every_limit(digits: int) -> None:
    assert parse(b"9" * digits) == 10**32
    assert parse(b"-" + b"9" * digits) == -(10**32)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":1,"a":1}', b"[" * 90_000, b"\xff", b"nul"])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse(text)


def test_it_is_refused_on_every_way_in(house: House) -> None:
    wide = b'{"prompt": "x", "negatives": [' + b"1," * MAX_VALUES + b"1]}"
    made = house.made()["id"]
    for path in ("", f"/{made}/rerank", f"/{made}/refine"):
        is_problem(house.post(f"/v1/generations{path}", content=wide, headers=JSON), 413, "too_large")
    for path in ("/v1/images/generations", "/v1/rank", "/v1/taste/own/votes"):
        is_problem(house.post(path, content=wide, headers=JSON), 413, "too_large")
    is_problem(house.client.put("/v1/taste/own", content=wide, headers=JSON), 413, "too_large")
    form = {"prompt": "x", "ranking": wide.decode()}
    is_problem(house.post("/v1/rank", data=form, files={"images": b"x"}), 413, "too_large")
