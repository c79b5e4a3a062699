"""Files of `frontrunner batch`: requests to read, images and a list to write."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.cli.client import CliError, Json
from frontrunner import ApiError, Client

STDIN = "-"
"""Name that reads requests from a pipe."""

RESULTS = "results.jsonl"
"""File with one line per entry: index, status, id, prompt, files and error."""

MAX_SHOWN = 5
"""Maximum invalid lines that an error names."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of a JSON Lines file, and the line of each."""

    name: str
    bodies: list[Any]
    lines: list[int]

    def explain(self, error: ApiError) -> str:
        """The error of a batch in terms of lines of the file."""
        found = [(field.get("pointer") or "").split("/") for field in error.errors]
        told = [
            f"line {self.lines[int(path[2])]}: {': '.join(filter(None, ['.'.join(path[3:]), field['detail']]))}"
            for path, field in zip(found, error.errors, strict=True)
            if path[:2] == ["#", "requests"] and len(path) > 2 and path[2].isdecimal()
        ]
        more = [f"and {len(told) - MAX_SHOWN} more"] if len(told) > MAX_SHOWN else []
        return f"{self.name}: {'; '.join([*told[:MAX_SHOWN], *more])}" if told else str(error)


def read_requests(name: str) -> Requests:
    """Read a JSON Lines file, or stdin; empty lines are skipped. Raises CliError."""
    try:
        text = sys.stdin.read() if name == STDIN else Path(name).read_text("utf-8-sig")
    except OSError as error:
        raise CliError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CliError(f"cannot read {name}: save it as UTF-8") from None
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise CliError(f'{name} has no request: write one JSON object a line, such as {{"prompt": "a red apple"}}')
    bodies = [_parse(name, number, line) for number, line in numbered]
    return Requests(name, bodies, [number for number, _ in numbered])


def _parse(name: str, number: int, line: str) -> Any:
    try:
        body = json.loads(line)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise CliError(f'{name}, line {number}: write one JSON object a line, such as {{"prompt": "a red apple"}}')
    return body


@dataclass(slots=True)
class Results:
    """Saves the images of entries into `folder` as they end."""

    client: Client
    folder: Path
    entries: dict[int, Json] = field(default_factory=dict)

    def save(self, entry: Json) -> None:
        """Save the images of an entry that has ended, once. Raises CliError."""
        if entry["index"] in self.entries:
            return
        told = {**entry, "prompt": None, "files": []}
        told.pop("progress")
        if entry["status"] == "succeeded":
            done = self.client.get(entry["id"])
            told |= {"prompt": done["prompt"], "files": [self._image(entry, done, one) for one in done["data"]]}
        elif entry["status"] == "failed":
            told["error"] = self.client.get(entry["id"])["error"]
        self.entries[entry["index"]] = told

    def _image(self, entry: Json, done: Any, image: Any) -> str:
        """Write one image; its name begins with the number of the request in the file."""
        kind = done["output_format"]
        path = self.folder / f"{entry['index'] + 1:04}-{image['rank']}.{kind}"
        self._write(path, self.client.image(done["id"], image["index"], file_format=kind))
        return path.name

    def close(self) -> Path:
        """Write the list of entries; return its path. Raises CliError."""
        lines = [json.dumps(self.entries[index], ensure_ascii=False) for index in sorted(self.entries)]
        path = self.folder / RESULTS
        self._write(path, "".join(f"{line}\n" for line in lines).encode())
        return path

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise CliError(f"cannot write to {self.folder}: {error.strerror}") from None
