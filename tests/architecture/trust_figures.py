"""Sentences of the documents from stored runs of the benches of audits and of harmless."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench import audits, harmless

RESULTS = Path(__file__).parents[2] / "tests" / "bench" / "results" / "pictogram.json"
NONE = "No run is stored yet.\n"

_AUDIT = """\
For example, the embedded pack (weights {version}) was asked {fields} times for "a car", {candidates} candidates in all.
By their pixels {share} % have a {background} background (95 %: {low} to {high}), where {even} % would be even. The
ranking {ranking}. The probe, here the ranking's own scorer, {moved}.
"""
_SETS = {
    harmless.CARRIED: "pictures that installed packages carry",
    harmless.DRAWN: "pictures of the embedded pack",
}


def audit() -> str:
    """What an audit finds in the backgrounds of a car on the embedded pack."""
    rows = _rows()
    if not {audits.NAME, audits.MOVED} <= rows.keys():
        return NONE
    row = rows[audits.NAME]
    found = row["detail"]
    return _AUDIT.format(
        **{name: found[name] for name in ("fields", "candidates", "background")},
        version=row["weights"].split("-")[0],
        share=_percent(row["value"]),
        low=_percent(found["interval"][0]),
        high=_percent(found["interval"][1]),
        even=_percent(1 / len(found["shares"])),
        ranking=_favours(found["ranking"]),
        moved=_moved(rows[audits.MOVED]["value"]),
    )


def false_flags() -> str:
    """What the light classifier says of harmless pictures."""
    rows = _rows()
    known = {name: rows[harmless.figure_name(name)] for name in _SETS if harmless.figure_name(name) in rows}
    lines = []
    for name, row in known.items():
        title, score = row["detail"]["highest"]
        counted = f"`open-nsfw` flagged {row['value']:.0f} of {row['detail']['pictures']} {_SETS[name]}"
        lines.append(f"- {counted}; the highest score is {score:.2f}, of `{title}`.\n")
    return "".join(lines) or NONE


def _moved(share: float | None) -> str:
    if share is None:
        return "determines no background"
    return f"moves {_percent(share)} % of the candidates to another background"


def _favours(verdicts: Mapping[str, Any]) -> str:
    told = [
        f"{verdict} {name} (odds {'unlimited' if odds is None else f'{odds:.1f}'})"
        for name, (verdict, odds, *_) in verdicts.items()
    ]
    return " and ".join(told) or "is not found to favour any of them"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _rows() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(RESULTS.read_text())["figures"]}
