"""The Model Context Protocol with its own client, over HTTP: tools, progress, cancellation, keys, origins."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image

from app.service import Permission, auth
from tests.api.keys_kit import add_key
from tests.api.kit import House, is_problem, running, until
from tests.servers import PATIENCE_S
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

T = TypeVar("T")
SMALL = {"prompt": "a red apple", "n_candidates": 4, "steps": 4, "seed": 7}
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}  # fmt: skip
ACCEPT = {"accept": "application/json, text/event-stream"}


@asynccontextmanager
async def _client(
    url: str, headers: dict[str, str] | None = None, mode: str = "auto", slash: str = ""
) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{url}/mcp{slash}", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


def _with(house: House, use: Callable[[Client], Awaitable[T]], *, path: str = "", **options: Any) -> T:
    async def run() -> T:
        async with _client(house.url + path, **options) as client:
            return await use(client)

    return asyncio.run(run())


def _call(house: House, tool: str, **arguments: Any) -> CallToolResult:
    return _with(house, lambda client: client.call_tool(tool, arguments))


def _text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


def _images(result: CallToolResult) -> list[Image.Image]:
    found = [content for content in result.content if isinstance(content, ImageContent)]
    return [Image.open(io.BytesIO(base64.b64decode(one.data))) for one in found]


def _picture(colour: str, size: tuple[int, int] = (64, 64)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_generating_returns_the_best_images_with_their_links(house: House, mode: str) -> None:
    result = _with(house, lambda client: client.call_tool("generate", {**SMALL, "n": 2}), mode=mode)
    assert not result.is_error, result
    found = result.structured_content
    assert found is not None
    behind = house.client.get(f"/v1/generations/{found['id']}").json()
    assert [one["index"] for one in found["images"]] == [one["index"] for one in behind["data"]]
    assert [one["score"] for one in found["images"]] == [one["score"] for one in behind["data"]]
    assert found["n_candidates"] == 4
    assert [image.size for image in _images(result)] == [(64, 64), (64, 64)]
    for one in found["images"]:
        assert one["url"].startswith(house.url)
        assert httpx.get(one["url"], timeout=PATIENCE_S).headers["content-type"] == "image/png"
    assert f"generation {found['id']}" in _text(result)


def test_the_address_may_end_with_a_slash(house: House) -> None:
    tools = _with(house, lambda client: client.list_tools(), slash="/").tools
    assert "generate" in {tool.name for tool in tools}


def test_the_tools_describe_themselves(house: House) -> None:
    tools = {tool.name: tool for tool in _with(house, lambda client: client.list_tools()).tools}
    assert set(tools) == {"generate", "refine", "rerank", "rank", "get_image"}
    for tool in tools.values():
        assert tool.description
        assert tool.output_schema is not None
        assert all(one.get("description") for one in tool.input_schema["properties"].values()), tool.name
        assert "context" not in tool.input_schema["properties"]
    assert tools["generate"].input_schema["required"] == ["prompt"]
    assert tools["rank"].annotations is not None
    assert tools["rank"].annotations.read_only_hint is True


def test_errors_say_each_thing_once(house: House) -> None:
    made = house.made(n_candidates=2)["id"]
    assert _text(_call(house, "refine", generation=made)) == (
        "invalid_request: body: send exactly one of `index` and `image`"
    )
    told = _text(_call(house, "refine", generation=made, index=0, prompt="", strength=2))
    assert told.startswith("invalid_request: ")
    assert told.count("the text is empty") == told.count("2 is out of range") == 1


def test_tools_decide_what_files_contain(house: House) -> None:
    made = _call(house, "generate", **SMALL, provenance="metadata", inline=False).structured_content
    assert made is not None
    kept = _call(house, "refine", generation=made["id"], index=0, inline=False).structured_content
    dropped = _call(house, "refine", generation=made["id"], index=0, provenance="none", inline=False).structured_content
    assert kept is not None
    assert dropped is not None
    told = [house.client.get(f"/v1/generations/{one['id']}").json()["provenance"] for one in (made, kept, dropped)]
    assert told == ["metadata", "metadata", "none"]
    text = Image.open(io.BytesIO(house.client.get(made["images"][0]["url"]).content)).info["parameters"]
    assert text.startswith(SMALL["prompt"])
    assert _call(house, "generate", **SMALL, provenance="c2pa").is_error


def test_a_result_is_ranked_again_refined_and_shown(house: House) -> None:
    made = house.made(n_candidates=4)
    calls = house.generator.calls.copy()
    ranked = _call(house, "rerank", generation=made["id"], prompt="a blue boat", negatives=["red"], n=3)
    assert house.generator.calls == calls
    assert ranked.structured_content is not None
    assert (ranked.structured_content["prompt"], len(ranked.structured_content["images"])) == ("a blue boat", 3)
    assert _images(ranked) == []
    refined = _call(house, "refine", generation=made["id"], index=2, strength=0.5, n_candidates=2, inline=False)
    assert refined.structured_content is not None
    behind = house.client.get(f"/v1/generations/{refined.structured_content['id']}").json()
    assert behind["parent"] == {"kind": "refine", "generation": made["id"], "index": 2}
    narrow = _call(house, "refine", generation=made["id"], index=2, mask=_picture("white", (32, 64)))
    assert _text(narrow).startswith("invalid_request: mask: the mask is 32x64, but its image is 64x64")
    masked = _call(
        house, "refine", generation=made["id"], index=2, mask=_picture("white"), n_candidates=2, inline=False
    )
    assert masked.structured_content is not None
    assert "mask_covers_all" in {one["code"] for one in masked.structured_content["warnings"]}
    shown = _call(house, "get_image", generation=made["id"], index=3, format="webp", size="32x32")
    assert [(image.size, image.format) for image in _images(shown)] == [((32, 32), "WEBP")]
    assert shown.structured_content is not None
    assert shown.structured_content["url"] == f"{house.url}/v1/generations/{made['id']}/images/3.webp"


def test_images_are_ranked(house: House) -> None:
    pictures = [_picture("blue"), f"data:image/png;base64,{_picture('red')}"]
    result = _call(house, "rank", prompt="red", images=pictures)
    assert result.structured_content is not None
    assert [one["index"] for one in result.structured_content["images"]] == [1, 0]
    skipped = _call(house, "rank", prompt="red", images=[*pictures, "x" * 20], on_error="skip")
    assert skipped.structured_content is not None
    assert len(skipped.structured_content["images"]) == 2


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("generate", {**SMALL, "steps": 0}, "invalid_request"),
        ("generate", {**SMALL, "n": 9}, "invalid_request: n: 9 is out of range"),
        ("generate", {**SMALL, "size": "x"}, "invalid_request: size"),
        ("generate", {**SMALL, "image": "x" * 20}, "bad_image"),
        ("generate", {"prompt": " "}, "invalid_request: prompt"),
        ("generate", {**SMALL, "step": 3}, "invalid_request: unknown arguments step: use prompt"),
        ("get_image", {"generation": "gen_x", "index": 0}, "not_found"),
        ("get_image", {"generation": "../../healthz?", "index": 0}, "not_found"),
        ("rerank", {"generation": "gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH"}, "not_found: there is no such generation"),
        ("rank", {"prompt": "red", "images": []}, "invalid_request: images"),
    ],
)
def test_errors_are_tool_errors_in_the_services_words(
    house: House, tool: str, arguments: dict[str, Any], words: str
) -> None:
    result = _call(house, tool, **arguments)
    assert result.is_error
    assert _text(result).startswith(words)


def test_arguments_of_another_type_are_tool_errors(house: House) -> None:
    result = _call(house, "generate", prompt=["a"])
    assert result.is_error
    assert "prompt" in _text(result)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[House]:
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as it:
        yield it


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_progress_is_reported_while_a_generation_runs(slow: House, mode: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    arguments = {**SMALL, "steps": 30, "inline": False}
    result = _with(slow, lambda c: c.call_tool("generate", arguments, progress_callback=note), mode=mode)
    assert not result.is_error
    shares = [share for share, _, _ in seen]
    assert len(shares) > 2
    assert shares == sorted(set(shares))
    assert all(total == 1.0 for _, total, _ in seen)
    assert any(message and message.endswith("4 candidates") for _, _, message in seen)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_cancelled_call_cancels_its_generation(slow: House, mode: str) -> None:
    async def cancelled(client: Client) -> None:
        with anyio.move_on_after(1.0) as scope:
            await client.call_tool("generate", {**SMALL, "steps": 150})
        assert scope.cancelled_caught
        assert (await client.list_tools()).tools  # the connection stays usable
        await anyio.to_thread.run_sync(until, lambda: slow.live == 0)

    _with(slow, cancelled, mode=mode)
    until(lambda: slow.client.get("/v1/generations").json()["data"] == [])


def test_a_service_without_state_serves_too(tmp_path: Path) -> None:
    with running(tmp_path, mcp="stateless") as house:
        for mode in ("auto", "legacy"):
            result = _with(house, lambda client: client.call_tool("generate", {**SMALL}), mode=mode)
            assert not result.is_error
        answer = house.post("/mcp", json=INITIALIZE, headers=ACCEPT)
        assert "mcp-session-id" not in answer.headers


def test_it_works_under_a_prefix(tmp_path: Path) -> None:
    with running(tmp_path, root_path="/images", wait=False) as house:
        until(lambda: house.client.get("/images/readyz").status_code == 200)
        result = _with(house, lambda client: client.call_tool("generate", {**SMALL}), path="/images")
        assert result.structured_content is not None
        url = result.structured_content["images"][0]["url"]
        assert url.startswith(f"{house.url}/images/v1/")
        assert httpx.get(url, timeout=PATIENCE_S).status_code == 200
        assert len(_images(result)) == 1


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[House, Path]]:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path) as house:
        yield house, tmp_path / "data"


def test_keys_rights_and_quotas_hold(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, mine = add_key(folder, quota=6)
    _, ranker = add_key(folder, Permission.RANK)
    _, maker = add_key(folder, Permission.GENERATE)
    for wrong in ({}, {"authorization": "Bearer x"}):
        refused = house.post("/mcp", json=INITIALIZE, headers={**ACCEPT, **wrong})
        is_problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        is_problem(house.client.get("/mcp", headers={**ACCEPT, **wrong}), 401, "unauthorized")
        is_problem(house.post("/mcp%0A", json=INITIALIZE, headers={**ACCEPT, **wrong}), 404, "not_found")

    async def use(client: Client) -> tuple[CallToolResult, CallToolResult]:
        return await client.call_tool("generate", SMALL), await client.call_tool("generate", SMALL)

    first, second = _with(house, use, headers=mine)
    assert not first.is_error
    assert first.structured_content is not None
    assert "signature=" in first.structured_content["images"][0]["url"]
    assert len(_images(first)) == 1
    assert second.is_error
    assert _text(second).startswith("quota_exceeded: this key allows 6 candidates")
    known = first.structured_content["id"]
    shown = _with(house, lambda client: client.call_tool("get_image", {"generation": known, "index": 3}), headers=mine)
    assert shown.structured_content is not None
    assert f"{known}/images/3.png?expires=" in shown.structured_content["url"]
    assert httpx.get(shown.structured_content["url"], timeout=PATIENCE_S).headers["content-type"] == "image/png"

    async def ranks_only(client: Client) -> None:
        assert _text(await client.call_tool("generate", SMALL)).startswith("forbidden: this key lacks")
        assert not (await client.call_tool("rank", {"prompt": "red", "images": [_picture("red")]})).is_error
        assert _text(await client.call_tool("rerank", {"generation": known})).startswith("not_found")

    _with(house, ranks_only, headers=ranker)

    async def makes_only(client: Client) -> None:
        made = await client.call_tool("generate", SMALL)
        assert not made.is_error
        assert "cannot be read" in _text(made)

    _with(house, makes_only, headers=maker)


def test_a_session_belongs_to_its_key(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, mine = add_key(folder)
    _, other = add_key(folder)
    opened = house.post("/mcp", json=INITIALIZE, headers={**ACCEPT, **mine})
    session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18", **ACCEPT}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    assert house.post("/mcp", json=ping, headers={**session, **other}).status_code == 404
    assert house.post("/mcp", json=ping, headers={**session, **mine}).status_code == 200


def test_pages_of_other_origins_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, cors_origins="https://app.example.com") as house:
        for origin, status in (
            ("https://evil.example.net", 403), ("null", 403), ("https://app.example.com", 200), (house.url, 200),
            ("http://localhost:6274", 200), ("http://[", 403),
        ):  # fmt: skip
            answer = house.post("/mcp", json=INITIALIZE, headers={**ACCEPT, "origin": origin})
            assert answer.status_code == status, (origin, answer.text)
            if origin == "https://app.example.com":
                assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
        rebound = {**ACCEPT, "host": "evil.example.net", "origin": "http://evil.example.net"}
        assert house.post("/mcp", json=INITIALIZE, headers=rebound).status_code == 403
    with running(tmp_path, allowed_hosts="images.example.com") as house:
        assert house.post("/mcp", json=INITIALIZE, headers=ACCEPT).status_code == 400
        named = {**ACCEPT, "host": "images.example.com", "origin": "https://images.example.com"}
        assert house.post("/mcp", json=INITIALIZE, headers=named).status_code == 200
        assert house.post("/mcp", json=INITIALIZE, headers={**named, "origin": "http://localhost"}).status_code == 403


def test_bodies_are_checked_before_the_protocol(house: House, served_afterwards: None) -> None:
    kind = {**ACCEPT, "content-type": "application/json"}
    is_problem(house.post("/mcp", content=b"{", headers=kind), 400, "invalid_json")
    is_problem(house.post("/mcp", content=b"[" * 200_000, headers=kind), 413, "too_large")
    is_problem(house.post("/mcp", content=b'{"a":1,"a":2}', headers=kind), 400, "invalid_json")
    is_problem(house.client.put("/mcp", json={}), 405, "method_not_allowed")


def test_it_can_be_off(tmp_path: Path) -> None:
    with running(tmp_path, mcp="off") as house:
        is_problem(house.post("/mcp", json=INITIALIZE, headers=ACCEPT), 404, "not_found")


def test_a_package_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "app.api.compat.mcp.server", None)
    with running(tmp_path) as house:
        for _ in range(2):
            found = is_problem(house.post("/mcp", json=INITIALIZE, headers=ACCEPT), 404, "not_found")
            assert "does not fit" in found["detail"]


def test_a_stopping_service_ends_streams_that_only_wait(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        opened = house.post("/mcp", json=INITIALIZE, headers=ACCEPT)
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "accept": "text/event-stream"}
        with house.client.stream("GET", "/mcp", headers=session) as stream:
            assert stream.status_code == 200
            house.app.state.mcp.close()
            assert not [line for line in stream.iter_lines() if line.startswith("data")]
        is_problem(house.post("/mcp", json=INITIALIZE, headers=ACCEPT), 503, "draining")


def test_the_package_is_not_imported_at_start(tmp_path: Path) -> None:
    code = f"""
import sys
from fastapi.testclient import TestClient
from app.main import create_app
from app.settings import Settings
from app.engine.local import LocalEngine
from app.engine.config import EngineConfig
from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from models.synthetic.generator import FakeGenerator
engine = LocalEngine(lambda: Models(FakeGenerator(), FakeScorer()), EngineConfig(warmup_s=0.0), lambda _: None)
with TestClient(create_app(Settings(data_dir={str(tmp_path)!r}), engine)) as client:
    client.get("/healthz")
    print(sorted(name for name in sys.modules if name.partition(".")[0] in ("mcp", "mcp_types", "jsonschema")))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert ran.stdout.strip() == "[]", ran.stderr[-2000:]
