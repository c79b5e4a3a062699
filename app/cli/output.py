"""Output of the command line: progress bar and ranked tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli.client import CliError, Events, Json, ordered_candidates, unfinished_note

_COLUMNS = (
    BarColumn(),
    TextColumn("step {task.fields[step]}/{task.fields[steps]}"),
    TextColumn("{task.fields[live]} live"),
    TextColumn("[dim]{task.fields[note]}[/]"),
    TimeElapsedColumn(),
)


def show_progress(events: Events, console: Console) -> Json:
    """Show a generation's progress; return its result. Raises CliError on failure."""
    best = float("-inf")
    with closing(events), Progress(TextColumn("sampling"), *_COLUMNS, console=console) as progress:
        task = progress.add_task("", total=None, step=0, steps="?", live="?", note="queued")
        for event in events:
            kind, data = event.kind, event.data
            if kind == "preview" and data["score"] is not None:
                best = max(best, data["score"])
                progress.update(task, note=f"best preview {best:.3f}")
            elif kind in {"failed", "cancelled"}:
                raise CliError((data["error"] or {"message": f"the generation was {kind}"})["message"])
            elif kind == "succeeded":
                progress.update(task, total=1, completed=1, note=f"{data['timings']['total_ms'] / 1000:.1f} s")
                return dict(data)
            else:
                _update_progress(progress, task, kind, data)
    raise CliError("the event stream ended before the result: try again")


def _update_progress(progress: Progress, task: TaskID, kind: str, data: Mapping[str, Any]) -> None:
    if kind == "queued":
        progress.update(task, live=data["n_candidates"])
    elif kind == "loading":
        progress.update(task, note=f"loading {data['model']}")
    elif kind == "started":
        progress.update(task, note="started")
    elif kind == "step":
        total, done = data["steps"], data["step"]
        progress.update(task, total=total, completed=done, step=done, steps=total, live=data["live"])
    elif kind == "pruned":
        progress.update(task, note=f"{len(data['indices'])} pruned after step {data['step']}")


READ_WARNINGS = {"words_not_understood", "prompt_translated", "spelling_corrected"}
"""Codes of warnings that the lines of what was understood replace."""


def ranking_summary(done: Json) -> str:
    """Describe the ranking in one line."""
    payload = done["ranking"]
    parts = [f"compared with: {payload['prompt']}"]
    if payload["negatives"]:
        texts = "; ".join(negative["text"] for negative in payload["negatives"])
        parts.append(f"to avoid: {texts} (weight {payload['negative_weight']:g})")
    if payload["scorers"]:
        parts.append("scorers " + ", ".join(f"{use['name']} {use['weight']:g}" for use in payload["scorers"]))
    if payload["diversity"]:
        parts.append(f"diversity {payload['diversity']:g}")
    if payload["taste"] and payload["taste"]["weight"]:
        parts.append("with the votes")
    return " | ".join(parts)


def result_lines(done: Json) -> list[str]:
    """Say what was understood of the prompt, the warnings, and what ranking gained."""
    lines = []
    if done.get("understood"):
        lines.append(f"understood: {done['understood']}")
    unknown = [w["words"] for w in done["warnings"] if w["code"] == "words_not_understood"]
    lines += [f"not understood: {', '.join(words)}" for words in unknown]
    lines += warning_lines(done, READ_WARNINGS)
    scores = [c["score"] for c in done["candidates"] if c["score"] is not None]
    if len(scores) > 1 and done["data"]:
        previews = sum(c["score_is_preview"] for c in done["candidates"])
        note = f" (pruned: {previews}, counted by their last preview)" if previews else ""
        mean, best = sum(scores) / len(scores), done["data"][0]["score"]
        lines.append(f"random pick {mean:.2f}, best of {len(scores)} {best:.2f}{note}")
    return lines


def warning_lines(answer: Json, told: Collection[str] = ()) -> list[str]:
    """The warnings of an answer, without those whose codes are `told` otherwise."""
    return [f"warning: {warning['detail']}" for warning in answer["warnings"] if warning["code"] not in told]


def candidates_table(done: Json) -> Table:
    """Return a table of all candidates.

    A pruned candidate shows the numbers of its last preview.
    """
    taste = ("taste",) if done["ranking"]["taste"] else ()
    terms, members = ("similarity", "penalty", *taste, "score"), _members(done["candidates"])
    table = _table("rank", "seed", *terms, *members, "")
    for place, c in ordered_candidates(done):
        style = "bold" if c["rank"] == 1 else "" if c["rank"] else "dim"
        cells = [_number(c[name]) for name in terms] + [_number(c["scores"].get(name)) for name in members]
        table.add_row(str(place or "-"), str(c["seed"]), *cells, unfinished_note(c), style=style)
    return table


def ranking_table(ranked: Json, files: Sequence[Path]) -> Table:
    """Return a table of the files, best first."""
    terms, members = ("similarity", "penalty", "score"), _members(ranked["data"])
    table = _table("rank", *terms, *members, "file")
    for image in ranked["data"]:
        cells = [_number(image[name]) for name in terms] + [_number(image["scores"].get(name)) for name in members]
        name = escape(files[image["index"]].name)
        table.add_row(str(image["rank"]), *cells, name, style="bold" if image["rank"] == 1 else "")
    return table


def generations_table(found: Sequence[Json]) -> Table:
    """Return a table of generations, in order."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, width in (("generation", 30), ("created", 16), ("status", 9), ("best", 6)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis")
    for one in found:
        best = next((_number(image["score"]) for image in one["data"]), "-")
        table.add_row(one["id"], one["created"], one["status"], best, escape(" ".join(one["prompt"].split())))
    return table


def _members(images: Sequence[Json]) -> list[str]:
    """Return the scorers of an ensemble; none if the main scorer ranked alone."""
    names = list(dict.fromkeys(name for image in images for name in image["scores"]))
    return names if len(names) > 1 else []


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in {"", "file"} else "right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
