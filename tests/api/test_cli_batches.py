"""`frontrunner batch` and `frontrunner list` against a service: what is made, saved, refused, and shown."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from app.cli import app
from tests.api.keys_kit import add_key
from tests.api.kit import House, running
from tests.api.test_cli import COMMAND, ROOT, _complaint, _environment, _heed_interrupts, _told
from tests.servers import PATIENCE_S, until

pytestmark = pytest.mark.slow

SMALL = {"n_candidates": 3, "steps": 2}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("cli-batches")) as house:
        yield house


def _file(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines), "utf-8")
    return path


def _invoked(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=text)


def _results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]


def test_a_batch_is_made_shown_and_saved(own: House, tmp_path: Path) -> None:
    requests = _file(
        tmp_path, {"prompt": "a red apple", "n": 2, **SMALL}, "", {"prompt": "лодка", "output_format": "webp", **SMALL}
    )
    found = _invoked("batch", requests, "--out", tmp_path / "out", "--url", own.url)
    assert found.exit_code == 0, found.output
    assert "2/2" in found.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "0001-1.png", "0001-2.png", "0002-1.webp", "results.jsonl",
    ]  # fmt: skip
    with Image.open(tmp_path / "out" / "0002-1.webp") as image:
        assert (image.format, image.size) == ("WEBP", (64, 64))
    first, second = _results(tmp_path / "out")
    assert (first["index"], first["status"], first["files"]) == (0, "succeeded", ["0001-1.png", "0001-2.png"])
    assert (second["prompt"], second["error"]) == ("лодка", None)
    made = own.client.get(f"/v1/generations/{first['id']}").json()
    best = own.client.get(made["data"][0]["url"]).content
    assert (tmp_path / "out" / "0001-1.png").read_bytes() == best


def test_a_batch_from_a_pipe_on_a_service_of_its_own(tmp_path: Path) -> None:
    found = subprocess.run(
        [*COMMAND, "batch", "-", "--out", str(tmp_path / "out")],
        cwd=ROOT, env=_environment(tmp_path), input=json.dumps({"prompt": "a red apple", **SMALL}), text=True,
        capture_output=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "out" / "0001-1.png").exists()


def test_invalid_lines_are_named_by_their_number(own: House, tmp_path: Path) -> None:
    url = ("--url", own.url)
    requests = _file(tmp_path, "", {"prompt": "x"}, {"prompt": "x", "previews": 11}, "", {"prompt": "x", "colour": 1})
    told = _complaint("batch", requests, *url)
    assert "line 3: previews: 11 is out of range; send a value between 0 and 10" in told
    assert "line 5: colour: unknown field" in told
    told = _complaint("batch", _file(tmp_path, {"prompt": "x", "ranking": {"negatives": [{"text": ""}]}}), *url)
    assert "line 1: ranking.negatives.0.text: the text is empty" in told
    many = _file(tmp_path, *[{"prompt": "x", "steps": 0}] * 8)
    assert "line 5: " in (told := _complaint("batch", many, *url))
    assert told.endswith("and 3 more")
    assert "b64_json" in _complaint("batch", _file(tmp_path, {"prompt": "x", "response_format": "b64_json"}), *url)
    for bad in ("nonsense", "[1]", '"a red apple"'):
        assert "prompts.jsonl, line 2: write one JSON object" in _complaint(
            "batch", _file(tmp_path, {"prompt": "x"}, bad), *url
        )
    assert "has no request" in _complaint("batch", _file(tmp_path, " ", ""), *url)
    assert "cannot read" in _complaint("batch", tmp_path / "missing.jsonl", *url)
    (tmp_path / "prompts.jsonl").write_bytes(b"\xff\xfe")
    assert "UTF-8" in _complaint("batch", tmp_path / "prompts.jsonl", *url)
    assert "name the service" in _complaint("batch", tmp_path / "prompts.jsonl", "--no-wait")
    assert "no batch has this id" in _complaint("batch", "batch_none", *url)


def test_invalid_lines_are_skipped_where_asked(own: House, tmp_path: Path) -> None:
    requests = _file(tmp_path, {"prompt": "x", "steps": 0}, {"prompt": "a red apple", **SMALL})
    found = _invoked("batch", requests, "--skip-invalid", "--out", tmp_path / "out", "--url", own.url)
    assert found.exit_code == 1
    assert "1 of 2 requests have no result" in found.stderr
    refused, made = _results(tmp_path / "out")
    assert refused["status"] == "refused"
    assert refused["error"]["pointer"] == "#/requests/0/steps"
    assert refused["error"]["message"] == "steps: 0 is out of range; send a value between 1 and 150"
    assert made["files"] == ["0002-1.png"]


def test_a_batch_is_submitted_and_fetched_later(own: House, tmp_path: Path) -> None:
    requests = _file(tmp_path, {"prompt": "a red apple", **SMALL}, {"prompt": "a blue boat", **SMALL})
    told = _told("batch", requests, "--no-wait", "--url", own.url)
    batch_id = told.split()[-1]
    assert batch_id.startswith("batch_")
    _told("batch", batch_id, "--out", tmp_path / "out", "--url", own.url)
    assert len(_results(tmp_path / "out")) == 2
    assert "a blue boat" in (listed := _told("list", "--batch", batch_id, "--url", own.url))
    assert len(listed.splitlines()) == 3


def test_an_interrupted_wait_leaves_the_batch_and_says_how_to_go_on(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        house.generator.delay_s = 0.2
        requests = _file(
            tmp_path, {"prompt": "a red apple", **SMALL}, {"prompt": "x", "n_candidates": 64, "steps": 150}
        )
        process = subprocess.Popen(
            [*COMMAND, "batch", str(requests), "--out", str(tmp_path / "out"), "--url", house.url],
            cwd=ROOT, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=_heed_interrupts,
        )  # fmt: skip
        until(lambda: (tmp_path / "out" / "0001-1.png").exists())
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
        (batch,) = house.client.get("/v1/batches").json()["data"]
        assert process.returncode != 0
        assert f"frontrunner batch {batch['id']} --url" in output
        assert "Traceback" not in output
        assert batch["status"] == "running"
        assert _results(tmp_path / "out")[0]["files"] == ["0001-1.png"]
        house.client.delete(f"/v1/batches/{batch['id']}")


def test_list_filters_and_shows(own: House) -> None:
    made = own.made(prompt="a [bold] apple\nwith lines")
    shown = _told("list", "--limit", "1", "--status", "succeeded", "--url", own.url).splitlines()
    assert shown[0].split() == ["generation", "created", "status", "best", "prompt"]
    assert shown[1].startswith(made["id"])
    assert "a [bold] apple with lines" in shown[1]
    assert len(shown) == 2
    (one,) = map(json.loads, _told("list", "--limit", "1", "--json", "--url", own.url).splitlines())
    assert one["id"] == made["id"]
    assert _told("list", "--status", "failed", "--url", own.url).splitlines()[1:] == []
    assert _invoked("list", "--status", "gone", "--url", own.url).exit_code == 2
    assert "batch" in _complaint("list", "--batch", "x", "--url", own.url)


def test_the_key_comes_from_the_environment(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        _, headers = add_key(tmp_path / "data")
        key = {"FRONTRUNNER_KEY": headers["authorization"].partition(" ")[2]}
        requests = _file(tmp_path, {"prompt": "a red apple", **SMALL})
        assert "API key" in _complaint("batch", requests, "--url", house.url)
        assert "API key" in _complaint("list", "--url", house.url)
        _told("batch", requests, "--out", tmp_path / "out", "--url", house.url, environment=key)
        assert "a red apple" in _told("list", "--url", house.url, environment=key)


@pytest.mark.parametrize("command", ["batch", "list"])
def test_help_teaches_by_example(command: str) -> None:
    told = _told(command, "--help")
    assert f"frontrunner {command}" in told
    assert "Examples" in told
