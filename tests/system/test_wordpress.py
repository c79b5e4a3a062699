"""A winner in WordPress's media library: by REST with curl, and by PHP, with the recipes of `docker/CMS.md`."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.api.keys_kit import add_key
from tests.api.kit import House, running
from tests.servers import PATIENCE_S
from tests.system.wordpress import WordPress, running_wordpress

pytestmark = pytest.mark.soak

GUIDE = (Path(__file__).parents[2] / "docker" / "CMS.md").read_text("utf-8")
COVER = """
define('WP_USE_THEMES', false);
require 'wp-load.php';
$post = wp_insert_post(['post_title' => 'Apples', 'post_status' => 'publish']);
$image = frontrunner_cover($argv[1], $post);
echo json_encode(is_wp_error($image) ? ['error' => $image->get_error_code()] : ['id' => $image, 'post' => $post]);
"""


def _recipe(language: str) -> str:
    (section,) = re.findall(r"## WordPress: into the media library\n(.*?)\n## ", GUIDE, re.DOTALL)
    (block,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def blog() -> Iterator[WordPress]:
    with running_wordpress() as it:
        yield it


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("service")) as house:
        yield house


def _media(blog: WordPress, number: int) -> dict[str, Any]:
    found = httpx.get(f"{blog.url}/?rest_route=/wp/v2/media/{number}", timeout=60)
    media: dict[str, Any] = found.raise_for_status().json()
    return media


def test_by_rest_with_curl(blog: WordPress, service: House, tmp_path: Path) -> None:
    host, port = service.address
    script = _recipe("sh").replace("localhost:8000", f"{host}:{port}").replace("https://blog.example.org", blog.url)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"WORDPRESS_PASSWORD": blog.application_password}, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    number, source = ran.stdout.split()
    media = _media(blog, int(number))
    assert (media["mime_type"], media["source_url"]) == ("image/png", source)
    assert httpx.get(source, timeout=PATIENCE_S).content == (tmp_path / "winner.png").read_bytes()


@pytest.mark.parametrize("keys", [False, True])
def test_by_php(blog: WordPress, tmp_path: Path, keys: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as house:
        if keys:
            _, header = add_key(tmp_path / "data")
            monkeypatch.setenv("FRONTRUNNER_KEY", header["authorization"].removeprefix("Bearer "))
        blog.plugin("frontrunner.php", _recipe("php").replace("http://localhost:8000", house.url))
        prompt = f"a red apple {keys}"
        made = json.loads(blog.php(COVER, prompt))
        assert "error" not in made
        media = _media(blog, made["id"])
        with Image.open(io.BytesIO(httpx.get(media["source_url"], timeout=PATIENCE_S).content)) as image:
            assert (image.format, image.size) == ("PNG", (64, 64))
        assert (media["alt_text"], media["post"]) == (prompt, made["post"])
        post = httpx.get(f"{blog.url}/?rest_route=/wp/v2/posts/{made['post']}", timeout=PATIENCE_S).json()
        assert post["featured_media"] == made["id"]
        monkeypatch.setenv("FRONTRUNNER_KEY", "fr_wrong")
        refused = json.loads(blog.php(COVER, "another"))
        assert refused == {"error": "unauthorized"} if keys else "id" in refused
