"""Recipes of the CMS guide for programs that cannot be installed here, run as far as they go without them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.service.webhooks import dispatcher
from tests.api.kit import House, running, until
from tests.api.test_webhooks import listening

GUIDE = (Path(__file__).parents[2] / "docker" / "CMS.md").read_text("utf-8")
SECRET = "whsec_" + "c2VjcmV0LW9mLXR3ZW50eS1mb3VyLWJ5dGVz"

DRUPAL = r"""
namespace Drupal\Core\File { enum FileExists { case Rename; } }
namespace Drupal\media\Entity {
  class Media {
    public bool $saved = false;
    public function __construct(public array $values) {}
    public static function create(array $values): self { return new self($values); }
    public function save(): void { $this->saved = true; }
  }
}
namespace {
  class Answer {
    public function __construct(private string $body) {}
    public function getBody(): string { return $this->body; }
  }
  class Client {
    public function post(string $url, array $options): Answer {
      $headers = ['Content-Type: application/json'];
      foreach ($options['headers'] as $name => $value) $headers[] = "$name: $value";
      $http = ['method' => 'POST', 'header' => $headers, 'content' => json_encode($options['json'])];
      return new Answer(file_get_contents($url, false, stream_context_create(['http' => $http])));
    }
  }
  class File { public function id(): int { return 7; } }
  class Repository {
    public function writeData(string $data, string $place, \Drupal\Core\File\FileExists $how): File {
      file_put_contents(str_replace('public://', '', $place), $data);
      return new File();
    }
  }
  class Drupal {
    public static function httpClient(): Client { return new Client(); }
    public static function service(string $name): Repository {
      return ['file.repository' => new Repository()][$name];
    }
  }
}
namespace Frontrunner {
  RECIPE
  echo json_encode(frontrunner_cover('a red apple', 'node-1'));
}
"""
"""What the recipe for Drupal uses of it."""


def _block(section: str, language: str) -> str:
    (part,) = [part for part in GUIDE.split("\n## ") if part.startswith(section)]
    (block,) = re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    options: dict[str, Any] = {"webhook_secret": SECRET, "webhook_private": True}
    with running(tmp_path_factory.mktemp("cms"), public_url="https://images.example.org", **options) as house:
        yield house


def _verify(path: Path) -> None:
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (64, 64))
        image.verify()


def test_drupal(service: House, tmp_path: Path) -> None:
    if shutil.which("php") is None:
        pytest.skip("PHP is not installed (php-cli)")
    recipe = _block("Drupal", "php").replace("http://localhost:8000", service.url)
    ran = subprocess.run(
        ["php", "-r", DRUPAL.replace("RECIPE", recipe)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    made = json.loads(ran.stdout)
    assert made["saved"]
    assert made["values"]["field_media_image"] == {"target_id": 7, "alt": "a red apple"}
    _verify(tmp_path / "node-1.png")


def test_n8n(service: House, tmp_path: Path) -> None:
    """The request that n8n sends for these settings."""
    (node,) = json.loads(_block("n8n", "json"))["nodes"]
    given = node["parameters"]
    headers = {one["name"]: one["value"] for one in given["headerParameters"]["parameters"]}
    url = given["url"].replace("http://localhost:8000", service.url)
    answer = httpx.request(given["method"], url, headers=headers, json=json.loads(given["jsonBody"]), timeout=60)
    assert answer.status_code == 200, answer.text
    (tmp_path / "image.png").write_bytes(answer.content)
    _verify(tmp_path / "image.png")
    assert given["options"]["response"]["response"] == {"responseFormat": "file", "outputPropertyName": "image"}


def test_webhook_services(service: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.05)
    (text,) = re.findall(r'`(\{"prompt": "\.\.\.", "webhook".*?\})`', GUIDE)
    with listening() as catch:
        body = json.loads(text.replace("THE CATCH HOOK'S URL", catch.url).replace("...", "a blue boat"))
        started = service.post(json=body, headers={"prefer": "respond-async", "idempotency-key": "record-1"})
        assert started.status_code == 202
        until(lambda: catch.got)
    hook = catch.got[0][1].decode()
    assert json.loads(hook)["data"]["id"] == started.json()["id"]
    assert "https://images.example.org/v1/generations/" in hook
    (tmp_path / "hook.json").write_text(hook.replace("https://images.example.org", service.url))
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = _block("Zapier", "sh")
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True, timeout=120)
    _verify(tmp_path / "boat.png")
