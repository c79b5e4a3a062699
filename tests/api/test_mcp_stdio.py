"""`frontrunner mcp` with the client of the protocol: against a service, and with a local one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import ImageContent, TextContent

from tests.api.keys_kit import add_key
from tests.api.kit import House, running
from tests.api.test_mcp import INITIALIZE, SMALL
from tests.servers import PATIENCE_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "app.cli", "mcp"]


def _environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}


async def _generate(*options: str, **environment: str) -> Any:
    command, *arguments = [*COMMAND, *options]
    server = StdioServerParameters(command=command, args=arguments, env=_environment(**environment), cwd=ROOT)
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with Client(server) as client:
        assert len((await client.list_tools()).tools) == 5
        return await client.call_tool("generate", SMALL, progress_callback=note), seen


def test_tools_use_the_service_at_the_url(house: House) -> None:
    result, seen = asyncio.run(_generate("--url", house.url))
    assert not result.is_error, result
    assert result.structured_content["images"][0]["url"].startswith(f"{house.url}/v1/generations/")
    assert sum(isinstance(one, ImageContent) for one in result.content) == 1
    assert seen == sorted(set(seen))


def test_the_key_comes_from_the_environment(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        _, bearer = add_key(tmp_path / "data")
        refused, _ = asyncio.run(_generate("--url", house.url))
        assert refused.is_error
        assert isinstance(refused.content[0], TextContent)
        assert refused.content[0].text.startswith("unauthorized: ")
        key = bearer["authorization"].removeprefix("Bearer ")
        result, _ = asyncio.run(_generate("--url", house.url, FRONTRUNNER_KEY=key))
        assert not result.is_error


def test_an_unreachable_service_is_a_tool_error() -> None:
    result, _ = asyncio.run(_generate("--url", "http://127.0.0.1:9"))
    assert result.is_error
    assert result.content[0].text.startswith("unavailable: the service cannot be reached")


def test_stdout_holds_the_protocol_only_and_the_end_of_stdin_ends_it(house: House) -> None:
    lines = [INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}]
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "generate", "arguments": {}}}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, "not an object", call])
    with subprocess.Popen([*COMMAND, "--url", house.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd=ROOT, env=_environment()) as ran:  # fmt: skip
        assert ran.stdin is not None
        assert ran.stdout is not None
        ran.stdin.write(text)
        ran.stdin.flush()
        answers: list[dict[str, Any]] = []
        while 2 not in [answer.get("id") for answer in answers]:
            answers.append(json.loads(ran.stdout.readline()))
        ran.stdin.close()
        answers += [json.loads(line) for line in ran.stdout]
        assert ran.wait(PATIENCE_S) == 0
    assert {answer.get("id") for answer in answers} >= {1, 2}
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)


def test_a_wrong_url_is_refused() -> None:
    ran = subprocess.run([*COMMAND, "--url", "images"], capture_output=True, text=True, check=False, cwd=ROOT,
                         env=_environment(), timeout=PATIENCE_S)  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "--url must be a URL" in ran.stderr


def test_a_signal_ends_it_although_stdin_is_open(house: House) -> None:
    with subprocess.Popen([*COMMAND, "--url", house.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd=ROOT, env=_environment()) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.terminate()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM


def test_without_a_url_a_local_service_is_started() -> None:
    result, _ = asyncio.run(_generate(FRONTRUNNER_GENERATOR="fake", FRONTRUNNER_SCORER="fake"))
    assert not result.is_error, result
    assert result.structured_content["n_candidates"] == 4
