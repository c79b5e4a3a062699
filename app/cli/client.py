"""The service as the command line sees it, over HTTP: ask, follow, fetch. Says what went wrong in one line."""

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

TIMEOUT = httpx.Timeout(10.0, read=60.0, write=60.0)
"""Silence of a minute is an end: the event stream has a heartbeat every 15 s."""


CANCEL_TIMEOUT_S = 5.0
"""Longest wait of an interrupted command for its generation to be cancelled."""

CLOSING = frozenset({"succeeded", "failed", "cancelled", "error"})
"""The events that end a stream."""

KEY_VARIABLE = "FRONTRUNNER_KEY"
"""Where the commands find an API key, if the service wants one."""


class Complaint(Exception):
    """What the user should know before the command ends with code 1."""


@contextmanager
def connect(url: str) -> Iterator[Client]:
    """A client of the service at `url`. What HTTP does wrong inside the block becomes a Complaint."""
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False, headers=_key()) as client:
            yield client
    except httpx.ConnectError:
        raise Complaint(f"there is no service at {url}") from None
    except httpx.TimeoutException:
        raise Complaint(f"the service at {url} does not answer") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Complaint(f"the connection to {url} failed: {error}") from None


def _key() -> dict[str, str]:
    """For a service that wants a key: the one in the environment."""
    key = os.environ.get(KEY_VARIABLE)
    return {"authorization": f"Bearer {key}"} if key else {}


def generation(client: Client, body: Mapping[str, Any], path: str = "/v1/generations") -> Events:
    """Ask for a generation and yield its events, name and data, to the closing one. Raises Complaint.

    One that is closed before, as by Ctrl-C, is cancelled.
    """
    asked = {k: v for k, v in body.items() if v is not None}
    with client.stream("POST", path, json=asked, headers={"accept": "text/event-stream"}) as answer:
        if answer.status_code != 200:
            answer.read()
            raise refusal(answer)
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


def ranking(client: Client, prompt: str, negative: str, files: Sequence[Path]) -> Json:
    """Have files compared with a prompt. Raises Complaint."""
    with ExitStack() as stack:
        parts = [("images", (f.name, stack.enter_context(f.open("rb")))) for f in files]
        answer = client.post("/v1/rank", data={"prompt": prompt, "negative_prompt": negative}, files=parts)
    if answer.status_code != 200:
        raise refusal(answer, files)
    ranked: Json = answer.json()
    return ranked


def ask(client: Client, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
    """What the service answers to a plain request; of `body`, what is not None. Raises Complaint."""
    asked = None if body is None else {k: v for k, v in body.items() if v is not None}
    answer = client.request(method, path, json=asked)
    if not answer.is_success:
        raise refusal(answer)
    told: Json = answer.json() if answer.content else {}
    return told


def save(client: Client, done: Json, out: Path) -> list[Path]:
    """Write the returned images and a contact sheet of all candidates; the paths written. Raises Complaint."""
    ranked = standing(done)
    files = [_image(client, done["id"], c["index"]) for _, c in ranked]
    best = {out / f"best-{c['rank']:02}.png": data for (_, c), data in zip(ranked, files, strict=True) if c["rank"]}
    return _write(out, best | {out / "sheet.png": _sheet(done, ranked, files)})


def save_sheet(client: Client, done: Json, path: Path) -> Path:
    """Write a contact sheet of all candidates. Raises Complaint."""
    ranked = standing(done)
    files = [_image(client, done["id"], c["index"]) for _, c in ranked]
    return _write(path.parent, {path: _sheet(done, ranked, files)})[0]


def save_lineage(client: Client, generation_id: str, path: Path) -> Path:
    """Write the dialogue that led to a generation, as JSON. Raises Complaint."""
    told = ask(client, "GET", f"/v1/generations/{generation_id}/lineage")
    return _write(path.parent, {path: json.dumps(told, indent=1).encode() + b"\n"})[0]


def _write(folder: Path, files: Mapping[Path, bytes]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            path.write_bytes(data)
    except OSError as error:
        raise Complaint(f"cannot write to {folder}: {error.strerror}") from None
    return list(files)


def standing(done: Json) -> list[tuple[int | None, Json]]:
    """All candidates with their places: the returned by rank, then the finished by score, then the pruned, without."""

    def order(c: Json) -> tuple[float, bool, float]:
        return (c["rank"] or math.inf, bool(c["pruned_at_step"]), math.inf if c["score"] is None else -c["score"])

    field = sorted(done["candidates"], key=order)
    return [(place if c["rank"] or not c["pruned_at_step"] else None, c) for place, c in enumerate(field, 1)]


def index_at(done: Json, place: int) -> int:
    """The candidate that stands at `place`, 1 is the best. Raises Complaint."""
    if done["status"] != "succeeded":
        raise Complaint(f"the generation is {done['status']}")
    field: dict[int, int] = {at: c["index"] for at, c in standing(done) if at is not None}
    if place not in field:
        raise Complaint(f"nothing stands at {place}: the list goes from 1 to {len(field)}")
    return field[place]


def _image(client: Client, generation_id: str, index: int) -> bytes:
    answer = client.get(f"/v1/generations/{generation_id}/images/{index}", params={"format": "png"})
    if answer.status_code != 200:
        raise refusal(answer)
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


def refusal(answer: httpx.Response, files: Sequence[Path] = ()) -> Complaint:
    """What the service said; of `files`, which one it was about."""
    try:
        problem = answer.json()
        pointers = [str(e.get("pointer")) for e in problem.get("errors", ())]
        found = re.fullmatch(r"#/images/(\d+)", pointers[0]) if pointers else None
        about = f"{files[int(found[1])].name}: " if found and files else ""
        return Complaint(f"{about}{problem['detail']}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Complaint(f"the service answered {answer.status_code}")
