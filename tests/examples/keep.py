"""`python -m tests.examples.keep`: asks a service on the embedded model and keeps its answers in app/api/examples.json.

Run it when the model or an answer changes. Long data is cut short; a stream keeps its first lines and its end.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from PIL import Image

from app.api import openapi
from app.main import create_app
from app.settings import Settings
from tests.api.kit import until

KEPT = Path(openapi.__file__).parent / "examples.json"
LONGEST, LINES = 60, 5
PROMPT = {"prompt": "a red apple on a white background", "n_candidates": 3, "seed": 7}
AVOIDED = {"ranking": {"prompt": "a green apple", "negatives": [{"text": "red", "weight": 2.0}]}}
REFINED = {"index": 0, "strength": 0.5, "n_candidates": 2, "seed": 11}
STREAM, LATER = {"accept": "text/event-stream"}, {"prefer": "respond-async"}


class Notes:
    """The answers so far, by route, status and media type."""

    def __init__(self, client: TestClient) -> None:
        self._client = client
        self.kept: dict[str, dict[str, dict[str, Any]]] = {}

    def ask(self, method: str, route: str, names: dict[str, str] | None = None, **given: Any) -> Any:
        """Ask a route of the document, with its path parameters filled in, and keep what it answers; as it is kept."""
        answer = self._client.request(method, route.format(**names or {}), **given)
        assert answer.is_success, answer.text
        kind = answer.headers["content-type"].partition(";")[0]
        told = short(answer.json()) if kind == "application/json" else shorter(answer.text, kind)
        self.kept.setdefault(f"{method} {route}", {}).setdefault(str(answer.status_code), {})[kind] = told
        return told


def short(value: Any) -> Any:
    """A JSON value whose long texts are cut."""
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [short(v) for v in value]
    cut = isinstance(value, str) and len(value) > LONGEST + 40
    return f"{value[: LONGEST + (23 if value.startswith('data:') else 0)]}..." if cut else value


def shorter(text: str, kind: str) -> str:
    """The first lines of the metrics; of a stream its first events and, with their long texts cut, its last two."""
    if kind != "text/event-stream":
        return "\n".join(text.splitlines()[:9]) + "\n"
    blocks = [b for b in re.sub(r'"([^"]{60})[^"]{41,}"', r'"\1..."', text).split("\n\n") if b]
    return "\n\n".join(blocks if len(blocks) <= LINES else [*blocks[: LINES - 2], ": and so on", *blocks[-2:]]) + "\n\n"


def dialogue(notes: Notes) -> None:
    """The routes in the order of a day's work."""
    for route in ("/healthz", "/readyz", "/metrics", "/v1/models", "/v1/presets"):
        notes.ask("GET", route)
    notes.ask("GET", "/v1/models/{model_id}", {"model_id": "pictogram"})
    notes.ask("POST", "/v1/generations", json=PROMPT, headers=STREAM)
    notes.ask("POST", "/v1/generations", json=PROMPT, headers=LATER)
    made = notes.ask("POST", "/v1/generations", json=PROMPT)
    one = {"generation_id": made["id"], "index": "0"}
    own = "/v1/generations/{generation_id}"
    for route in (own, f"{own}/events", f"{own}/lineage", f"{own}/candidates/{{index}}/why"):
        notes.ask("GET", route, one)
    notes.ask("POST", f"{own}/rerank", one, json=AVOIDED)
    notes.ask("POST", f"{own}/rerank", one, json=AVOIDED | {"store": True})
    notes.ask("POST", f"{own}/refine", one, json=REFINED)
    notes.ask("POST", f"{own}/refine", one, json=REFINED | {"previews": 1, "n_candidates": 1}, headers=STREAM)
    notes.ask("POST", f"{own}/refine", one, json=REFINED, headers=LATER)
    notes.ask("POST", "/v1/images/generations", json={"prompt": PROMPT["prompt"], "n": 1, "seed": 7})
    partial = {"prompt": PROMPT["prompt"], "seed": 7, "stream": True, "partial_images": 2}
    notes.ask("POST", "/v1/images/generations", json=partial)
    uploads = [
        ("images", ("winner.png", drawn(notes, made), "image/png")),
        ("images", ("red.png", plain(), "image/png")),
    ]
    words = {"prompt": PROMPT["prompt"], "ranking": json.dumps({"negatives": [{"text": "blurry"}]})}
    notes.ask("POST", "/v1/rank", files=uploads, data=words)
    picture = [("image", ("red.png", plain(), "image/png"))]
    small = {"n_candidates": "2", "seed": "7"}
    notes.ask("POST", "/v1/images/edits", files=picture, data=small | {"prompt": PROMPT["prompt"]})
    partial = {"prompt": PROMPT["prompt"], "stream": "true", "partial_images": "1"}
    notes.ask("POST", "/v1/images/edits", files=picture, data=small | partial)
    notes.ask("POST", "/v1/images/variations", files=picture, data=small)
    notes.ask("POST", "/v1/embeddings", json={"input": "a red apple", "encoding_format": "base64"})
    notes.ask("POST", "/v1/rerank", json={"query": "a red apple", "documents": ["a green car", "an apple"]})
    colours = {"name": "colour", "values": ["a red apple", "a green apple"]}
    notes.ask("POST", "/v1/audits", json={"generations": [made["id"]], "attributes": [colours], "force": True})
    votes = {"generation": made["id"], "liked": [0], "preferred": [[1, 2]]}
    profile = {"profile": "mine"}
    notes.ask("POST", "/v1/taste/{profile}/votes", profile, json=votes)
    notes.ask("GET", "/v1/taste/{profile}", profile)
    whole = notes._client.get("/v1/taste/mine/export").json()
    notes.ask("GET", "/v1/taste/{profile}/export", profile)
    notes.ask("PUT", "/v1/taste/{profile}", profile, json=whole)
    notes.ask("GET", "/v1/taste")


def drawn(notes: Notes, made: dict[str, Any]) -> bytes:
    """The winner's file."""
    return bytes(notes._client.get(made["data"][0]["url"]).content)


def plain() -> bytes:
    """A picture of nothing but red."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Ask, and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(generator="pictogram", scorer="pictogram", data_dir=Path(folder))
        with TestClient(create_app(settings), base_url="http://localhost:8000") as client:
            until(lambda: client.get("/readyz").status_code == 200)
            notes = Notes(client)
            dialogue(notes)
    KEPT.write_text(json.dumps(dict(sorted(notes.kept.items())), indent=1) + "\n")
    print(f"wrote {KEPT.name}: {len(notes.kept)} routes")


if __name__ == "__main__":
    main()
