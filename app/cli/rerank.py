"""Requests of the command line: re-rank, refine, and parts of others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from app.cli.client import CliError, Events, Json, present
from frontrunner import Client, data_uri

DEFAULT_CANDIDATES = 16
"""Candidates of `frontrunner generate`."""


def build_references(like: Sequence[Path], unlike: Sequence[Path]) -> list[Json] | None:
    """Return reference images as request fields.

    Raises CliError for an unreadable file.
    """
    weights = [*((path, 1.0) for path in like), *((path, -1.0) for path in unlike)]
    return [{"image": image_data_uri(path), "weight": weight} for path, weight in weights] or None


def build_scorers(options: Sequence[str] | None) -> list[Json] | None:
    """Return the scorers of `NAME=WEIGHT` options as request fields.

    A name alone has weight 1.

    Raises CliError for a weight that is no number of at least 0.
    """
    found = []
    for option in options or ():
        name, equals, weight = option.rpartition("=")
        try:
            number = float(weight) if equals else 1.0
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise CliError(f"--scorer {option}: write NAME=WEIGHT with a weight of at least 0, or NAME alone")
        found.append({"name": name if equals else option, "weight": number})
    return found or None


def build_counts(candidates: int | None, n: int, quality: str | None) -> Json:
    """Return the fields with the numbers of candidates and of returned ones.

    A quality counts candidates that are not named.
    """
    if candidates is None and quality is not None:
        return {"quality": quality, "n": n}
    count = candidates or DEFAULT_CANDIDATES
    return {"n_candidates": count, "n": min(n, count), **({"quality": quality} if quality else {})}


def build_variants(count: int | None, texts: Sequence[str] | None) -> Json:
    """Return the field `variants`, if there are such options.

    Raises CliError for both kinds.
    """
    if count is not None and texts:
        raise CliError("--variants and --variant exclude each other: use one of them")
    return {"variants": list(texts)} if texts else {"variants": {"auto": count}} if count is not None else {}


def request_rerank(client: Client, generation_id: str, body: Mapping[str, Any]) -> Json:
    """Return the generation in another ranking."""
    return cast(Json, client.rerank(generation_id, **present(body)))


def stream_refine(client: Client, generation_id: str, body: Mapping[str, Any]) -> Events:
    """Refine a candidate or an image; yield the events of the new generation."""
    return client.stream_refine(generation_id, idempotency_key="", **present({"previews": 2, **body}))


def image_data_uri(path: Path) -> str:
    """Return an image file as a data URI. Raises CliError for an unreadable file."""
    try:
        return data_uri(path)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from None


def build_controls(options: Sequence[str]) -> list[Json]:
    """Return control images as request fields, from `kind=FILE` or `kind=FILE@weight`.

    Raises ValueError for another form, and CliError for an unreadable file.
    """
    return [_control(option) for option in options]


def _control(option: str) -> Json:
    kind, equals, file = option.partition("=")
    if not (kind.strip() and equals and file):
        raise ValueError(f"{option!r} is no control: use kind=FILE or kind=FILE@weight, such as sketch=drawing.png@0.8")
    weighted = re.fullmatch(r"(.+)@(\d*\.?\d+)", file)
    if weighted is None or Path(file).exists():
        return {"kind": kind.strip(), "image": image_data_uri(Path(file))}
    return {"kind": kind.strip(), "image": image_data_uri(Path(weighted[1])), "weight": float(weighted[2])}
