"""Ranking again and refining over HTTP, as the command line asks for it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.cli.client import Client, Complaint, Events, Json, ask, generation


def references(like: Sequence[Path], unlike: Sequence[Path]) -> list[Json] | None:
    """Pictures to be like or unlike, as the service takes them. Raises Complaint for one that cannot be read."""
    weights = [*((path, 1.0) for path in like), *((path, -1.0) for path in unlike)]
    return [{"image": picture(path), "weight": weight} for path, weight in weights] or None


def rerank(client: Client, generation_id: str, body: Mapping[str, Any]) -> Json:
    """The generation as it stands by another ranking. Raises Complaint."""
    return ask(client, "POST", f"/v1/generations/{generation_id}/rerank", body)


def refine(client: Client, generation_id: str, body: Mapping[str, Any]) -> Events:
    """The events of a generation that begins as a candidate of this one, or as a picture. Raises Complaint."""
    return generation(client, {"previews": 2, **body}, f"/v1/generations/{generation_id}/refine")


def picture(path: Path) -> str:
    """An image file as the service takes it. Raises Complaint for one that cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Complaint(f"cannot read {path}: {error.strerror}") from None
    return f"data:image/*;base64,{base64.b64encode(data).decode('ascii')}"
