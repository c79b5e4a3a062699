"""The command line, each command in a process of its own, on the fakes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app
from tests.api.kit import House, running
from tests.servers import PATIENCE_S, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "app.cli"]
ASKED = ["generate", "a red apple", "--candidates", "5", "--best", "2", "--seed", "7", "--steps", "4"]


def _environment(tmp_path: Path, **more: str) -> dict[str, str]:
    own = {"GENERATOR": "fake", "SCORER": "fake", "DATA_DIR": str(tmp_path / "data"), **more}
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("FRONTRUNNER_")}
    return quiet | {f"FRONTRUNNER_{k}": v for k, v in own.items()} | {"COLUMNS": "120", "TMPDIR": str(temporary)}


def _run(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = _environment(tmp_path, **settings)
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def _told(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command that goes well, run in this process."""
    found = CliRunner().invoke(app, [str(a) for a in arguments], env=environment or {})
    assert found.exit_code == 0, found.output
    return found.stdout


def _complaint(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """The one line on standard error of a command that does not, run in this process."""
    found = CliRunner().invoke(app, [str(a) for a in arguments], env=environment or {})
    assert found.exit_code == 1, found.output
    assert "Traceback" not in found.output
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("frontrunner: ")]
    return line


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _left_behind(tmp_path: Path) -> list[str]:
    return [p.name for p in (tmp_path / "tmp").iterdir()]


def test_generate_starts_a_service_shows_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = _run(tmp_path, *ASKED, "--negative", "blue [x]", "--out", str(out))
    assert found.returncode == 0, found
    head, *rows = found.stdout.splitlines()
    assert head.split() == ["rank", "seed", "similarity", "penalty", "score"]
    cells = [row.split() for row in rows[:5]]
    assert [row[0] for row in cells] == ["1", "2", "3", "4", "5"]
    assert sorted(int(row[1]) for row in cells) == [7, 8, 9, 10, 11]
    scores = [float(row[4]) for row in cells]
    assert scores == sorted(scores, reverse=True)
    assert rows[5] == "warning: this model has no calibration, so nothing was pruned"
    assert rows[6] == f"random pick {sum(scores) / 5:.2f}, best of 5 {scores[0]:.2f}"
    assert sorted(p.name for p in out.iterdir()) == ["best-01.png", "best-02.png", "sheet.png"]
    assert _size(out / "best-01.png") == (64, 64)
    assert _size(out / "sheet.png")[0] > 800
    assert "step 4/4" in found.stderr
    assert _left_behind(tmp_path) == []


def test_generate_uses_the_service_at_url(tmp_path: Path, house: House) -> None:
    _told(*ASKED, "--out", tmp_path / "out", "--url", house.url)
    assert (tmp_path / "out" / "sheet.png").exists()


def test_a_line_separator_in_a_prompt_does_not_end_the_stream(tmp_path: Path, house: House) -> None:
    asked = ["generate", "a red\u2028apple", *ASKED[2:]]
    _told(*asked, "--out", tmp_path / "out", "--url", house.url)
    assert (tmp_path / "out" / "sheet.png").exists()


def test_errors_are_one_line_and_a_bad_code(tmp_path: Path, house: House) -> None:
    url = ["--url", house.url]
    assert "65 is not a multiple of 8" in _complaint(*ASKED, "--size", "65x64", *url)
    limited = "frontrunner: --candidates: {} is out of range; send a value between 1 and 64"
    assert _complaint(*ASKED, "--candidates", "65", *url) == limited.format(65)
    assert _complaint(*ASKED, "--candidates", "9" * 40, *url) == limited.format("the value")
    assert _complaint(*ASKED, "--size", "0x0", *url).count("size: ") == 1, "it is named once"
    assert "no service listens at" in _complaint(*ASKED, "--url", "http://127.0.0.1:9")
    assert "nowhere" in _complaint(*ASKED, "--url", "nowhere")
    assert "cannot write" in _complaint(*ASKED, "--out", "/dev/null/x", *url)
    text = tmp_path / "no-image.png"
    text.write_text("no image")
    assert "no-image.png: the file is not an image" in _complaint("rank", "x", text, *url)
    assert CliRunner().invoke(app, ["rank", "x", "missing.png"]).exit_code == 2


def test_a_service_that_cannot_start_is_told(tmp_path: Path) -> None:
    assert "FRONTRUNNER_PORT: " in _complaint(*ASKED, environment=_environment(tmp_path, PORT="none"))


def test_rank_names_files_best_first(tmp_path: Path, house: House) -> None:
    files = [tmp_path / f"{colour}[1].png" for colour in ("blue", "red")]
    for file in files:
        Image.new("RGB", (20, 20), file.name.partition("[")[0]).save(file)
    told = _told("rank", "a red apple", *files, "--url", house.url)
    assert [line.split()[-1] for line in told.splitlines()[1:]] == ["red[1].png", "blue[1].png"]


def test_rank_prints_the_warnings(tmp_path: Path, house: House) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    told = _told("rank", "an apple to the left of [a] cup", tmp_path / "red.png", "--url", house.url)
    assert "\nwarning: CLIP hardly sees positions: images that swap the things around 'to the left of'" in told


@pytest.mark.parametrize("command", ["serve", "generate", "rank", "rerank", "refine", "calibrate"])
def test_help_teaches_by_example(command: str) -> None:
    told = _told(command, "--help")
    assert f"frontrunner {command}" in told
    assert "Examples" in told


def _heed_interrupts() -> None:
    """A shell that runs the tests in its background makes its children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_generate_leaves_nothing_behind(tmp_path: Path, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        [*COMMAND, "generate", "a red apple", "--candidates", "64", "--steps", "150", "--out", str(tmp_path / "out")],
        cwd=ROOT, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=_heed_interrupts,
    )  # fmt: skip
    until(lambda: _left_behind(tmp_path) != [])
    time.sleep(0.5)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "Traceback" not in output
    assert _left_behind(tmp_path) == []


def test_an_interrupted_generate_cancels_at_a_service(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        house.generator.delay_s = 0.05
        process = subprocess.Popen(
            [*COMMAND, "generate", "x", "--candidates", "4", "--steps", "150", "--url", house.url],
            cwd=ROOT, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=_heed_interrupts,
        )  # fmt: skip
        until(lambda: house.app.state.engine.stats().rows_stepped > 20, 60)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode != 0
        assert "Traceback" not in output
        until(lambda: house.live == 0)


# serve


@contextmanager
def _served(tmp_path: Path, prelude: str = "", **settings: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """`frontrunner serve` on an inherited socket; `prelude` is python to run before it."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        code = f"{dedent(prelude)}\nfrom app.cli import main\nmain()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "--fd", str(port.fileno())],
            cwd=ROOT, env=_environment(tmp_path, **settings), pass_fds=[port.fileno()],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def _ready(client: httpx.Client) -> None:
    until(lambda: client.get("/readyz").status_code == 200)


FAKES = """
    import time
    from models import protocols, registry
    from models.synthetic import generator, scorer
    class Generator(generator.FakeGenerator):
        def step(self, *given):
            time.sleep(0.05)
            return super().step(*given)
        def encode(self, texts, **role):
            if "die" in texts:
                raise SystemExit("gone")
            return super().encode(texts, **role)
    registry.load_models = lambda *_, **__: protocols.Models(Generator(), scorer.FakeScorer())
"""


def test_the_first_signal_drains(tmp_path: Path) -> None:
    with _served(tmp_path, FAKES, LOG_FORMAT="json") as (process, client):
        _ready(client)
        asked = {"prompt": "a very private prompt", "n_candidates": 4, "steps": 80}
        queued = client.post("/v1/generations", json=asked, headers={"prefer": "respond-async"}).json()
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        refused = client.post("/v1/generations", json=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        with client.stream("GET", f"/v1/generations/{queued['id']}/events") as answer:
            assert "event: succeeded" in "".join(answer.iter_text())
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    answered = [line for line in output.splitlines() if '"event": "answered"' in line]
    assert any('"status": 202' in line and '"request_id"' in line for line in answered)
    assert "private" not in output


def test_what_does_not_end_in_time_is_handed_back(tmp_path: Path) -> None:
    with _served(tmp_path, FAKES, DRAIN_S="0.5") as (process, client):
        _ready(client)
        asked = {"prompt": "x", "n_candidates": 64, "steps": 150}
        queued = client.post("/v1/generations", json=asked, headers={"prefer": "respond-async"}).json()
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
        assert process.returncode == 0
    with _served(tmp_path) as (_, client):
        _ready(client)
        assert client.get(f"/v1/generations/{queued['id']}").json()["status"] == "queued"


def test_models_that_do_not_load_end_the_process(tmp_path: Path) -> None:
    with _served(tmp_path, "from models import registry\nregistry.load_models = lambda *_, **__: [][0]") as (
        process,
        _,
    ):
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert output.splitlines()[-1] == "frontrunner: the engine died: list index out of range"


def test_a_dead_engine_ends_the_process_after_telling_its_waiters(tmp_path: Path) -> None:
    with _served(tmp_path, FAKES) as (process, client):
        _ready(client)
        answer = client.post("/v1/generations", json={"prompt": "die", "n_candidates": 1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_dead")
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert output.splitlines()[-1] == "frontrunner: the engine died: gone"


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = _run(tmp_path, "serve", "--port", str(taken.getsockname()[1]))
    assert found.returncode == 1
    assert "frontrunner: the service did not start: port " in found.stderr
    assert "Traceback" not in found.stderr


def test_a_store_out_of_reach_is_told(tmp_path: Path) -> None:
    found = _run(tmp_path, "serve", "--port", "0", "--data-dir", "/dev/null/data")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("frontrunner: the service did not start: data_dir cannot")
