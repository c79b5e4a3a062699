"""Ranking again over HTTP, as the command line asks for it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.cli.remote import Client, Complaint, Json, refusal


def references(like: Sequence[Path], unlike: Sequence[Path]) -> list[Json] | None:
    """Pictures to be like or unlike, as the service takes them. Raises Complaint for one that cannot be read."""
    weights = [*((path, 1.0) for path in like), *((path, -1.0) for path in unlike)]
    return [{"image": _uri(path), "weight": weight} for path, weight in weights] or None


def rerank(client: Client, generation_id: str, body: Mapping[str, Any]) -> Json:
    """The generation as it stands by another ranking. Raises Complaint."""
    asked = {k: v for k, v in body.items() if v is not None}
    answer = client.post(f"/v1/generations/{generation_id}/rerank", json=asked)
    if answer.status_code not in {200, 201}:
        raise refusal(answer)
    done: Json = answer.json()
    return done


def _uri(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Complaint(f"cannot read {path}: {error.strerror}") from None
    return f"data:image/*;base64,{base64.b64encode(data).decode('ascii')}"
