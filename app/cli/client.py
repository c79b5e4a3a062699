"""Calls of the command line to a service, their errors, and the files they write."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeAlias, cast

import httpx
import numpy as np
import typer
from PIL import Image

from app import imaging
from frontrunner import ApiError, Client, Event, FrontrunnerError

Json: TypeAlias = dict[str, Any]
Events: TypeAlias = Generator[Event, None, None]

WITHHELD = "image_withheld"
"""Code of the error about an image that safety withholds."""

_BLANK = np.full((8, 8, 3), 224, np.uint8)
"""Stands for an image that cannot be shown."""

KEY_VARIABLE = "FRONTRUNNER_KEY"
"""Environment variable with the API key, if the service requires one."""


_SAME = "size steps sampler seed model quality safety steering control strength image mask probe certainty status batch"
OPTIONS = {
    **{name: f"--{name}" for name in _SAME.split()},
    "n_candidates": "--candidates",
    "n": "--best",
    "negative_prompt": "--negative",
    "guidance_scale": "--guidance",
    "loras": "--lora",
    "variants": "--variants or --variant",
    "provenance": "--metadata",
    "index": "--pick",
    "attributes": "--attribute",
    "prompts": "PROMPTS",
    "generations": "--generation",
    "ranking.prompt": "--prompt",
    "ranking.negatives": "--negative",
    "ranking.negative_weight": "--negative-weight",
    "ranking.references": "--like or --unlike",
    "ranking.diversity": "--diversity",
    "ranking.taste": "--taste",
    "ranking.scorers": "--scorer",
    "ranking.veto": "--veto",
}
"""The options that set fields of requests, by the field."""


class CliError(Exception):
    """An error message for the user; the command ends with exit code 1."""


@contextmanager
def connect(url: str) -> Iterator[Client]:
    """Yield a client of the service at `url`; convert its errors to CliError."""
    try:
        with httpx.Client(trust_env=False) as http:
            yield Client(url, http=http)
    except ApiError as error:
        raise CliError(explain(error)) from None
    except (FrontrunnerError, httpx.InvalidURL) as error:
        raise CliError(str(error)) from None


@contextmanager
def reported_errors() -> Iterator[None]:
    """Report a `CliError` as one line on stderr with exit code 1.

    SIGTERM cleans up in the same way as Ctrl-C.
    """
    before = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    except CliError as error:
        typer.echo(f"frontrunner: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def explain(error: ApiError) -> str:
    """The message of an error, with the options that set the fields at fault.

    A field inside the value of an option follows it in brackets.
    """
    text = str(error)
    for field in error.errors:
        name = field.get("parameter") or (field.get("pointer") or "").removeprefix("#/").replace("/", ".")
        top = next((top for top in OPTIONS if f"{name}.".startswith(f"{top}.")), None)
        if top is not None:
            option = OPTIONS[top] if top == name else f"{OPTIONS[top]} ({name})"
            text = text.replace(f"{name}: {field['detail']}", f"{option}: {field['detail']}")
    return text


def authorization() -> dict[str, str]:
    """Return the authorization header with the key from the environment, if set."""
    key = os.environ.get(KEY_VARIABLE)
    return {"authorization": f"Bearer {key}"} if key else {}


def stream_generation(client: Client, body: Mapping[str, Any]) -> Events:
    """Request a generation; yield its events.

    Without an idempotency key: a command that is killed leaves no generation behind. Closing the iterator early, as
    Ctrl-C does, cancels it at once.
    """
    return client.stream(idempotency_key="", **present(body))


def read_generation(client: Client, generation_id: str) -> Json:
    """Return a generation."""
    return cast(Json, client.get(generation_id))


def rank_files(
    client: Client,
    prompt: str,
    negative: str,
    files: Sequence[Path],
    scorers: Sequence[Json] | None = None,
    model: str | None = None,
) -> Json:
    """Rank image files by a prompt. Raises CliError that names the file at fault."""
    ranking: Any = {"scorers": scorers} if scorers else None
    try:
        return cast(Json, client.rank(prompt, files, negative_prompt=negative, ranking=ranking, model=model))
    except ApiError as error:
        field = next(iter(error.errors), None)
        found = re.fullmatch(r"#/images/(\d+)", (field and field.get("pointer")) or "")
        raise CliError(
            f"{files[int(found[1])].name}: {field['detail']}" if field and found else explain(error)
        ) from None
    except OSError as error:
        raise CliError(f"cannot read {error.filename}: {error.strerror}") from None


def present(body: Mapping[str, Any]) -> Json:
    """Return the fields that have a value."""
    return {k: v for k, v in body.items() if v is not None}


def save_images(client: Client, done: Json, out: Path) -> list[Path]:
    """Write the images and a contact sheet; return the paths. Raises CliError."""
    ranked = ordered_candidates(done)
    files = [_image(client, done["id"], c) for _, c in ranked]
    named = ((f"best-{c['rank']:02}.png", data) for (_, c), data in zip(ranked, files, strict=True) if c["rank"])
    best = {out / name: data for name, data in named if data is not None}
    return _write(out, best | {out / "sheet.png": _sheet(done, ranked, files)})


def save_sheet(client: Client, done: Json, path: Path) -> Path:
    """Write a contact sheet of all candidates; return its path. Raises CliError."""
    ranked = ordered_candidates(done)
    files = [_image(client, done["id"], c) for _, c in ranked]
    return _write(path.parent, {path: _sheet(done, ranked, files)})[0]


def save_lineage(client: Client, generation_id: str, path: Path) -> Path:
    """Write the lineage of a generation as JSON; return the path. Raises CliError."""
    lineage = client.lineage(generation_id)
    return _write(path.parent, {path: json.dumps(lineage, indent=1).encode() + b"\n"})[0]


def _write(folder: Path, files: Mapping[Path, bytes]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            path.write_bytes(data)
    except OSError as error:
        raise CliError(f"cannot write to {folder}: {error.strerror}") from None
    return list(files)


def ordered_candidates(done: Json) -> list[tuple[int | None, Json]]:
    """Return (place, candidate) pairs: by rank, then finished by score, then others.

    The place of a pruned or lost candidate is None.
    """

    def order(c: Json) -> tuple[float, bool, float]:
        return (c["rank"] or math.inf, bool(unfinished_note(c)), math.inf if c["score"] is None else -c["score"])

    ordered = sorted(done["candidates"], key=order)
    return [(place if c["rank"] or not unfinished_note(c) else None, c) for place, c in enumerate(ordered, 1)]


def unfinished_note(candidate: Json) -> str:
    """Why a candidate has no finished image; empty if it has one."""
    if candidate["failure"]:
        return "no image was made"
    return f"pruned at step {candidate['pruned_at_step']}" if candidate["pruned_at_step"] else ""


def index_at_place(done: Json, place: int) -> int:
    """Return the index of the candidate at `place`; 1 is the best. Raises CliError."""
    if done["status"] != "succeeded":
        raise CliError(f"the generation is {done['status']}: use one that has succeeded")
    indices: dict[int, int] = {at: c["index"] for at, c in ordered_candidates(done) if at is not None}
    if place not in indices:
        raise CliError(f"place {place} does not exist: use 1 to {len(indices)}")
    return indices[place]


def _image(client: Client, generation_id: str, candidate: Json) -> bytes | None:
    """The image of a candidate; None if it was lost, or is withheld by safety."""
    if candidate["failure"]:
        return None
    try:
        return client.image(generation_id, candidate["index"], file_format="png")
    except ApiError as error:
        if error.code != WITHHELD:
            raise
        return None


def _sheet(done: Json, ranked: Sequence[tuple[int | None, Json]], files: Sequence[bytes | None]) -> bytes:
    captions = [
        imaging.Caption(
            seed=c["seed"],
            rank=place,
            score=c["score"],
            similarity=c["similarity"],
            penalty=c["penalty"],
            note=unfinished_note(c) or ("withheld by safety" if data is None else ""),
        )
        for (place, c), data in zip(ranked, files, strict=True)
    ]
    pictures = [_BLANK if data is None else np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    plain = done.get("understood") or ""
    return imaging.encode(imaging.contact_sheet(pictures, captions, title=done["prompt"], plain_title=plain), "png")
