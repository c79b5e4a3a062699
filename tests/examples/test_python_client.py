"""Every example of the Python client's page, run against a service."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from standardwebhooks import Webhook

from tests.api.kit import House, running

PAGE = (Path(__file__).parents[2] / "frontrunner" / "README.md").read_text("utf-8")
SECTIONS = {
    part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL) for part in PAGE.split("\n## ")[1:]
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("client")) as house:
        yield house


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("one.png", "two.jpg"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(section: str, service: House, place: int = 0) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "example"}
    exec(SECTIONS[section][place].replace("http://localhost:8000", service.url), scope)
    return scope


def test_the_best_image(service: House, folder: Path) -> None:
    _run("The best image of a prompt", service)
    for rank in (1, 2, 3):
        with Image.open(folder / f"apple-{rank}.png") as image:
            image.verify()


def test_progress(service: House, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("Progress", service)["done"]["status"] == "succeeded"
    assert capsys.readouterr().out.endswith("100%\n")
    _run("Progress", service, 1)
    assert capsys.readouterr().out.splitlines()[-1].startswith("gen_")


def test_in_the_background(service: House, folder: Path) -> None:
    scope = _run("In the background", service)
    assert scope["done"]["id"] == scope["queued"]["id"]
    assert _run("In the background", service)["done"]["id"] == scope["done"]["id"]


def test_many_prompts(service: House, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(_run("Many prompts", service)["batch"]["entries"]) == 2
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["0", "succeeded"], ["1", "succeeded"],
    ]  # fmt: skip


def test_coroutines(service: House, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run("Coroutines", service)
    assert [line.rpartition(" ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "a red apple", "a green car", "a blue boat",
    ]  # fmt: skip


def test_a_dialogue(service: House, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope = _run("Rank, rank again, refine, explain", service)
    assert scope["refined"]["parent"]["generation"] == scope["made"]["id"]
    assert "a green apple" not in capsys.readouterr().out


def test_errors(service: House, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run("Errors and repeats", service)
    assert capsys.readouterr().out.startswith("invalid_request [('#/size', ")


def test_webhooks(service: House, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret, other = ("whsec_" + base64.b64encode(each * 24).decode() for each in (b"a", b"b"))
    body = '{"type": "t", "data": {"id": "gen_1"}}'
    now = datetime.now(UTC)
    headers = {"webhook-id": "1", "webhook-timestamp": str(int(now.timestamp()))}
    headers["webhook-signature"] = Webhook(secret).sign("1", now, body)
    receive = _run("Webhooks", service)["receive"]
    assert receive(body.encode(), headers, secret) == 204
    assert receive(body.encode(), headers, other) == 400
    assert capsys.readouterr().out == "t gen_1\n"


def test_no_example_is_left_out() -> None:
    assert {name: len(blocks) for name, blocks in SECTIONS.items()} == {
        "The best image of a prompt": 1,
        "Progress": 2,
        "In the background": 1,
        "Many prompts": 1,
        "Coroutines": 1,
        "Rank, rank again, refine, explain": 1,
        "Errors and repeats": 1,
        "Webhooks": 1,
    }
