"""`frontrunner batch` and `frontrunner list`: many prompts, and what was made."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.batches.files import Requests, Results, read_requests
from app.cli.client import CliError, Json, connect, reported_errors
from app.cli.local_server import service_at
from app.cli.output import generations_table
from frontrunner import ApiError, Client

POLL_S = 0.5
"""Seconds between two looks at a batch."""

PIPE_WIDTH = 4_000
"""Characters of a row in a pipe; a terminal cuts the prompt."""

ENDED = frozenset({"succeeded", "failed", "cancelled", "refused", "deleted"})
"""States of an entry that do not change."""


class Status(StrEnum):
    """States of a generation, for `list`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def batch(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON Lines file, `-` for stdin, or the id of a batch, `batch_...`.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder for the images and results.jsonl.")] = Path("batch"),
    skip: Annotated[bool, typer.Option("--skip-invalid", help="Leave out invalid requests.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait and save, or print the id and end.")] = True,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="URL of a running service. Default: start a local one.")
    ] = None,
) -> None:
    """Make the generations of FILE, one JSON object a line; save their images.

    Each line is a body of `POST /v1/generations`. Image `0003-1.png` is the best one of the third request. Images are
    saved as requests end; `results.jsonl` lists them. Ctrl-C ends the wait and not the batch: pass its id as FILE to go
    on. The exit code is 1 if a request has no result. The key comes from `FRONTRUNNER_KEY`.

    **Examples**

    `frontrunner batch prompts.jsonl --out pictures`

    `printf '{"prompt": "a red apple", "n": 2}\\n{"prompt": "a blue boat"}\\n' | frontrunner batch -`

    `frontrunner batch prompts.jsonl --no-wait --url https://images.example.com`

    `frontrunner batch batch_01M8KEAKT88E4HDP00KRY0DYGH --url https://images.example.com`
    """
    console, progress = Console(), Console(stderr=True)
    submitted = source.startswith("batch_") and not Path(source).exists()
    with reported_errors():
        if url is None and (submitted or not wait):
            raise CliError("name the service with --url: a local one ends with this command")
        requests = None if submitted else read_requests(source)
        with service_at(url, progress) as client:
            batch_id = source if requests is None else _submit(client, requests, skip=skip)
            if url is not None or not wait:
                console.print(f"batch {batch_id}", soft_wrap=True, highlight=False)
            if wait and not _save(client, batch_id, out, (console, progress), url):
                raise typer.Exit(1)


def list_(
    status: Annotated[list[Status] | None, typer.Option(help="Only these states; repeatable. Default: all.")] = None,
    batch_id: Annotated[str | None, typer.Option("--batch", metavar="BATCH", help="Only entries of a batch.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="Maximum number of rows.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    url: Annotated[str, typer.Option(metavar="URL", help="URL of the service.")] = "http://127.0.0.1:8000",
) -> None:
    """List your generations, newest first.

    With a key in `FRONTRUNNER_KEY`, those of this key.

    **Examples**

    `frontrunner list`

    `frontrunner list --status failed --status cancelled --limit 100`

    `frontrunner list --batch batch_01M8KEAKT88E4HDP00KRY0DYGH --json --url https://images.example.com`
    """
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    filters: dict[str, Any] = {"status": [one.value for one in status] if status else None, "batch": batch_id}
    with reported_errors(), connect(url) as client:
        given = {name: value for name, value in filters.items() if value is not None}
        found: list[Any] = list(islice(client.generations(**given), limit))
        if json:
            for one in found:
                console.print_json(data=one, indent=None, highlight=False)
        else:
            console.print(generations_table([_with_local_time(one) for one in found]))


def _with_local_time(found: Json) -> Json:
    return {**found, "created": datetime.fromtimestamp(found["created"]).strftime("%Y-%m-%d %H:%M")}


def _submit(client: Client, requests: Requests, *, skip: bool) -> str:
    """Submit a batch; return its id. Raises CliError that names the lines at fault."""
    try:
        return client.submit_batch(requests=requests.bodies, on_error="skip" if skip else "fail")["id"]
    except ApiError as error:
        raise CliError(requests.explain(error)) from None


def _save(client: Client, batch_id: str, out: Path, consoles: tuple[Console, Console], url: str | None) -> bool:
    """Save the images of a batch until it ends; return whether every entry has one."""
    console, progress = consoles
    results = Results(client, out)
    try:
        found = _follow(client, batch_id, results, progress)
    except KeyboardInterrupt:
        if url is not None:
            progress.print(f"the batch goes on: frontrunner batch {batch_id} --url {url}", soft_wrap=True)
        raise
    finally:
        if results.entries:
            written = results.close()
    console.print(f"wrote {written}", soft_wrap=True, highlight=False, markup=False)
    counts = found["counts"]
    for one in results.entries.values():
        if one["error"]:
            progress.print(f"request {one['index'] + 1}: {escape(one['error']['message'])}", soft_wrap=True)
    if without := counts["total"] - counts["succeeded"]:
        progress.print(f"{without} of {counts['total']} requests have no result", soft_wrap=True)
    return not without


def _follow(client: Client, batch_id: str, results: Results, console: Console) -> Json:
    """Show the progress of a batch and save what has ended; its last state."""
    columns = TextColumn("batch"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=None, note="queued")
        while True:
            found: Any = client.batch(batch_id)
            for entry in found["entries"]:
                if entry["status"] in ENDED:
                    results.save(entry)
                    progress.update(task, total=found["counts"]["total"], completed=len(results.entries))
            progress.update(task, total=found["counts"]["total"], note=_note(found["counts"]))
            if found["finished"] is not None:
                return dict(found)
            time.sleep(POLL_S)


def _note(counts: Json) -> str:
    names = ("running", "failed", "refused", "cancelled")
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
