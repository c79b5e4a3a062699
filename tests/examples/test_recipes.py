"""Every shell and Python example of the README and the CMS guide that talks to a service, run against one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.api.kit import House, running, until
from tests.servers import end, free_port

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + "c2VjcmV0LW9mLXR3ZW50eS1mb3VyLWJ5dGVz"
HERE = "https://cms.example.org/hooks/images"


def _blocks(file: str, language: str, having: str) -> list[str]:
    text = (ROOT / file).read_text()
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if having in block]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("recipes"), webhook_secret=SECRET, webhook_private=True) as house:
        yield house


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.png", "two.jpg"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    return tmp_path


def _run(block: str, service: House, folder: Path, hook: str = HERE) -> str:
    """What a shell prints; only the names of hosts and of the model are others than in the text."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    host, port = service.address
    model = service.client.get("/v1/models").json()["data"][0]["id"]
    script = block.replace("localhost:8000", f"{host}:{port}").replace('"pictogram"', f'"{model}"').replace(HERE, hook)
    found = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert '"error":{' not in found.stdout.replace(" ", "")
    return found.stdout


@pytest.mark.parametrize("place", range(len(_blocks("README.md", "sh", "curl"))))
def test_readme(place: int, service: House, folder: Path) -> None:
    _run(_blocks("README.md", "sh", "curl")[place], service, folder)


def test_readme_with_the_openai_package(service: House) -> None:
    (block,) = _blocks("README.md", "python", "OpenAI(")
    scope: dict[str, object] = {}
    exec(block.replace("http://localhost:8000", service.url), scope)
    best = scope["best"]
    assert len(best.data) == 3  # type: ignore[attr-defined]


def test_the_winner_into_a_file(service: House, folder: Path) -> None:
    (block,) = _blocks("docker/CMS.md", "sh", "cover.png")
    assert "x-frontrunner-seed" in _run(block, service, folder).lower()
    first = (folder / "cover.png").read_bytes()
    _run(block, service, folder)
    assert (folder / "cover.png").read_bytes() == first
    with Image.open(folder / "cover.png") as image:
        image.verify()


def test_the_best_three(service: House, folder: Path) -> None:
    (block,) = _blocks("docker/CMS.md", "sh", "choice-")
    _run(block, service, folder)
    for rank in (1, 2, 3):
        with Image.open(folder / f"choice-{rank}.webp") as image:
            assert image.format == "WEBP"


def test_asking_again(service: House, folder: Path) -> None:
    (block,) = _blocks("docker/CMS.md", "sh", "until curl")
    _run(block, service, folder)
    assert '"succeeded"' in (folder / "result.json").read_text()


def test_being_told(service: House, folder: Path) -> None:
    (receiver,) = _blocks("docker/CMS.md", "python", "HTTPServer(")
    (block,) = _blocks("docker/CMS.md", "sh", '"webhook"')
    port = free_port()
    told = folder / "told"
    with told.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", receiver.replace("9000", str(port))],
            env=os.environ | {"WEBHOOK_SECRET": SECRET}, stdout=output, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            made = _run(block, service, folder, f"http://127.0.0.1:{port}/")
            until(lambda: "generation.succeeded" in told.read_text())
        finally:
            end(process)
    assert told.read_text().split()[1] in made


def test_what_openais_clients_send(service: House, folder: Path) -> None:
    (block,) = _blocks("docker/CMS.md", "sh", "openai.png")
    _run(block, service, folder)
    with Image.open(folder / "openai.png") as image:
        image.verify()


def test_no_recipe_is_left_out() -> None:
    """WordPress's is run by `tests/system/test_wordpress.py`, that of webhook services by `test_cms_recipes.py`."""
    assert len(_blocks("docker/CMS.md", "sh", "")) == 7


def test_the_best_by_the_web_uis_api(service: House, folder: Path) -> None:
    (block,) = _blocks("docker/INTEGRATIONS.md", "sh", "txt2img")
    _run(block.replace("$FRONTRUNNER_KEY", "none"), service, folder)
    for place in (0, 1):
        with Image.open(folder / f"apple-{place}.png") as picture:
            assert picture.size == (64, 64)
