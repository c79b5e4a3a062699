"""Re-rank and refine requests of the command line."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.cli.client import Client, CliError, Events, Json, request_json, stream_generation


def build_references(like: Sequence[Path], unlike: Sequence[Path]) -> list[Json] | None:
    """Return reference images as request fields.

    Raises CliError for an unreadable file.
    """
    weights = [*((path, 1.0) for path in like), *((path, -1.0) for path in unlike)]
    return [{"image": image_data_uri(path), "weight": weight} for path, weight in weights] or None


def request_rerank(client: Client, generation_id: str, body: Mapping[str, Any]) -> Json:
    """Return the generation in another ranking. Raises CliError."""
    return request_json(client, "POST", f"/v1/generations/{generation_id}/rerank", body)


def stream_refine(client: Client, generation_id: str, body: Mapping[str, Any]) -> Events:
    """Refine a candidate or an image; yield the events of the new generation.

    Raises CliError.
    """
    return stream_generation(client, {"previews": 2, **body}, f"/v1/generations/{generation_id}/refine")


def image_data_uri(path: Path) -> str:
    """Return an image file as a data URI. Raises CliError for an unreadable file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from None
    return f"data:image/*;base64,{base64.b64encode(data).decode('ascii')}"
