"""The TypeScript client: compiled, then its checks and the examples of its page run against a live service."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from tests.api.kit import House, until
from tests.clients.conftest import SECRET
from tests.clients.node_kit import ROOT, node
from tests.servers import PATIENCE_S, end, free_port, listens

PACKAGE = ROOT / "clients" / "typescript"
EXAMPLES = re.findall(r"```ts\n(.*?)```", (PACKAGE / "README.md").read_text("utf-8"), re.DOTALL)
BODY = '{"type": "generation.succeeded", "data": {"id": "gen_1"}}'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, house: House) -> Path:
    """The checks and the examples, compiled by the strict settings of the package."""
    folder = tmp_path_factory.mktemp("typescript")
    tsc = PACKAGE / "node_modules" / "typescript" / "bin" / "tsc"
    node(tsc, "-p", PACKAGE / "tsconfig.json", cwd=PACKAGE, packages=PACKAGE)
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "frontrunner-client").symlink_to(PACKAGE)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "check.ts").write_text((Path(__file__).parent / "check.ts").read_text("utf-8"))
    for place, text in enumerate(EXAMPLES):
        (folder / f"example-{place}.ts").write_text(text.replace("http://localhost:8000", house.url))
    options = {"typeRoots": [str(PACKAGE / "node_modules" / "@types")], "rootDir": ".", "outDir": "."}
    settings = {
        "extends": str(PACKAGE / "tsconfig.json"),
        "compilerOptions": options,
        "include": ["*.ts"],
        "exclude": [],
    }
    (folder / "tsconfig.json").write_text(json.dumps(settings))
    node(tsc, "-p", folder, cwd=folder, packages=PACKAGE)
    return folder


def _signed() -> dict[str, str]:
    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign("msg_1", now, BODY)
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": str(int(now.timestamp())), "webhook-signature": signature}


def test_its_calls(folder: Path, house: House) -> None:
    found = node("check.js", house.url, json.dumps(_signed()), SECRET, BODY, cwd=folder, packages=PACKAGE)
    assert found.split() == ["resumed", "repeated", "cancelled", "others", "webhook"]


def test_its_examples(folder: Path, house: House) -> None:
    node("example-0.js", cwd=folder, packages=PACKAGE)
    assert sorted(path.name for path in folder.glob("*.png")) == ["apple-1.png", "apple-2.png", "apple-3.png"]
    progress = node("example-1.js", cwd=folder, packages=PACKAGE).split()
    assert progress[-1].startswith("gen_")
    ranked, refused = node("example-2.js", cwd=folder, packages=PACKAGE).splitlines()[:2]
    assert ranked.count(",") == 2
    assert refused.startswith("invalid_request")


def test_its_receiver_of_webhooks(folder: Path) -> None:
    port = free_port()
    example = folder / "receiver.mjs"
    example.write_text((folder / "example-3.js").read_text().replace("9000", str(port)))
    process = subprocess.Popen(["node", example], env=os.environ | {"WEBHOOK_SECRET": SECRET}, stdout=subprocess.PIPE)
    try:
        until(lambda: listens(port))
        url = f"http://127.0.0.1:{port}/"
        assert httpx.post(url, content=BODY, headers=_signed(), timeout=PATIENCE_S).status_code == 204
        assert httpx.post(url, content=BODY + " ", headers=_signed(), timeout=PATIENCE_S).status_code == 400
    finally:
        end(process)
    assert process.stdout is not None
    with process.stdout as output:
        assert json.loads(output.read()) == json.loads(BODY)


def test_no_example_is_left_out() -> None:
    assert len(EXAMPLES) == 4
