"""HTTP client of the command line: requests, event streams, downloads, errors."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import numpy as np
from PIL import Image

from app import imaging

Client: TypeAlias = httpx.Client
Json: TypeAlias = dict[str, Any]
Events: TypeAlias = Generator[tuple[str, Json], None, None]
"""Names and data of a generation's events."""

HTTP_TIMEOUT = httpx.Timeout(10.0, read=60.0, write=60.0)
"""A minute of silence is a failure: the event stream has a heartbeat every 15 s."""


CANCEL_TIMEOUT_S = 5.0
"""Maximum seconds that an interrupted command waits to cancel its generation."""

CLOSING = frozenset({"succeeded", "failed", "cancelled", "error"})
"""The events that end a stream."""

KEY_VARIABLE = "FRONTRUNNER_KEY"
"""Environment variable with the API key, if the service requires one."""


class CliError(Exception):
    """An error message for the user; the command ends with exit code 1."""


@contextmanager
def connect(url: str) -> Iterator[Client]:
    """Yield a client of the service at `url`; convert HTTP errors to CliError."""
    try:
        with httpx.Client(base_url=url, timeout=HTTP_TIMEOUT, trust_env=False, headers=authorization()) as client:
            yield client
    except httpx.ConnectError:
        raise CliError(f"no service listens at {url}: start one or correct --url") from None
    except httpx.TimeoutException:
        raise CliError(f"the service at {url} did not respond in time: try again") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CliError(f"the connection to {url} failed: {error}") from None


def authorization() -> dict[str, str]:
    """Return the authorization header with the key from the environment, if set."""
    key = os.environ.get(KEY_VARIABLE)
    return {"authorization": f"Bearer {key}"} if key else {}


def stream_generation(client: Client, body: Mapping[str, Any], path: str = "/v1/generations") -> Events:
    """Request a generation; yield its events (name, data). Raises CliError.

    Closing the iterator early, as Ctrl-C does, cancels the generation.
    """
    payload = {k: v for k, v in body.items() if v is not None}
    with client.stream("POST", path, json=payload, headers={"accept": "text/event-stream"}) as answer:
        if answer.status_code != 200:
            answer.read()
            raise error_from_response(answer)
        kind = ""
        try:
            for kind, data in _events(answer.iter_lines()):
                yield kind, data
        except (KeyboardInterrupt, GeneratorExit):
            if kind not in CLOSING:
                with suppress(httpx.HTTPError):
                    client.delete(answer.headers["location"], timeout=CANCEL_TIMEOUT_S)
            raise


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Json]]:
    kind, data = "", ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value
        elif not line and data:
            yield kind, json.loads(data)
            kind, data = "", ""


def rank_files(client: Client, prompt: str, negative: str, files: Sequence[Path]) -> Json:
    """Rank image files by a prompt. Raises CliError."""
    with ExitStack() as stack:
        parts = [("images", (f.name, stack.enter_context(f.open("rb")))) for f in files]
        answer = client.post("/v1/rank", data={"prompt": prompt, "negative_prompt": negative}, files=parts)
    if answer.status_code != 200:
        raise error_from_response(answer, files)
    ranked: Json = answer.json()
    return ranked


def request_json(client: Client, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
    """Return the JSON response to a request without the None fields of `body`.

    Raises CliError.
    """
    payload = None if body is None else {k: v for k, v in body.items() if v is not None}
    answer = client.request(method, path, json=payload)
    if not answer.is_success:
        raise error_from_response(answer)
    result: Json = answer.json() if answer.content else {}
    return result


def save_images(client: Client, done: Json, out: Path) -> list[Path]:
    """Write the images and a contact sheet; return the paths. Raises CliError."""
    ranked = ordered_candidates(done)
    files = [_image(client, done["id"], c["index"]) for _, c in ranked]
    best = {out / f"best-{c['rank']:02}.png": data for (_, c), data in zip(ranked, files, strict=True) if c["rank"]}
    return _write(out, best | {out / "sheet.png": _sheet(done, ranked, files)})


def save_sheet(client: Client, done: Json, path: Path) -> Path:
    """Write a contact sheet of all candidates; return its path. Raises CliError."""
    ranked = ordered_candidates(done)
    files = [_image(client, done["id"], c["index"]) for _, c in ranked]
    return _write(path.parent, {path: _sheet(done, ranked, files)})[0]


def save_lineage(client: Client, generation_id: str, path: Path) -> Path:
    """Write the lineage of a generation as JSON; return the path. Raises CliError."""
    lineage = request_json(client, "GET", f"/v1/generations/{generation_id}/lineage")
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
    """Return (place, candidate) pairs: by rank, then finished by score, then pruned.

    The place of a pruned candidate is None.
    """

    def order(c: Json) -> tuple[float, bool, float]:
        return (c["rank"] or math.inf, bool(c["pruned_at_step"]), math.inf if c["score"] is None else -c["score"])

    ordered = sorted(done["candidates"], key=order)
    return [(place if c["rank"] or not c["pruned_at_step"] else None, c) for place, c in enumerate(ordered, 1)]


def index_at_place(done: Json, place: int) -> int:
    """Return the index of the candidate at `place`; 1 is the best. Raises CliError."""
    if done["status"] != "succeeded":
        raise CliError(f"the generation is {done['status']}: use one that has succeeded")
    indices: dict[int, int] = {at: c["index"] for at, c in ordered_candidates(done) if at is not None}
    if place not in indices:
        raise CliError(f"place {place} does not exist: use 1 to {len(indices)}")
    return indices[place]


def _image(client: Client, generation_id: str, index: int) -> bytes:
    answer = client.get(f"/v1/generations/{generation_id}/images/{index}", params={"format": "png"})
    if answer.status_code != 200:
        raise error_from_response(answer)
    return answer.content


def _sheet(done: Json, ranked: Sequence[tuple[int | None, Json]], files: Sequence[bytes]) -> bytes:
    captions = [
        imaging.Caption(
            seed=c["seed"],
            rank=place,
            score=c["score"],
            similarity=c["similarity"],
            penalty=c["penalty"],
            note=f"pruned at step {c['pruned_at_step']}" if c["pruned_at_step"] else "",
        )
        for place, c in ranked
    ]
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    return imaging.encode(imaging.contact_sheet(pictures, captions, title=done["prompt"]), "png")


def error_from_response(answer: httpx.Response, files: Sequence[Path] = ()) -> CliError:
    """Convert an error response to a CliError that names its file of `files`."""
    try:
        problem = answer.json()
        pointers = [str(e.get("pointer")) for e in problem.get("errors", ())]
        found = re.fullmatch(r"#/images/(\d+)", pointers[0]) if pointers else None
        about = f"{files[int(found[1])].name}: " if found and files else ""
        return CliError(f"{about}{problem['detail']}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return CliError(f"the service returned HTTP status {answer.status_code}")
