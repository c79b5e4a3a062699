"""An audit of the embedded pack: the backgrounds of "a car", of which the prompt says nothing.

The probe is the ranking's own scorer, since the pack has no other. Pixels show the backgrounds exactly, so they say
how often the probe is right, and what the ranking favours without its errors.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.engine.audits.findings import Attribute, AttributeFinding, AuditedField, ValueFinding, find
from models.training.data.palette import BACKGROUND_NAMES
from models.training.evaluation import checks
from tests.bench.kit import Figure

PROMPT = "a car"
FIELDS, CANDIDATES = 40, 16
NAME = f"an audit of {PROMPT!r}: share of its most frequent background"
UNDETERMINED = "the probe determined no candidate"
MOVED = f"an audit of {PROMPT!r}: share of its candidates that the probe moves"


def backgrounds(client: httpx.Client, fields: int = FIELDS) -> list[Figure]:
    """What the probe and the pixels say of the backgrounds in `fields` generations."""
    found = client.post("/v1/audits", json=_asked(fields))
    found.raise_for_status()
    report: dict[str, Any] = found.json()
    seen = [_seen(client, each) for each in report["generations"]]
    (exact,) = find([Attribute("background", BACKGROUND_NAMES)], seen)
    (probed,) = report["attributes"]
    most = max(exact.values, key=lambda value: value.candidates.count)
    detail = {
        "fields": fields,
        "candidates": report["candidates"],
        "background": most.text,
        "interval": [_short(most.candidates.interval.low), _short(most.candidates.interval.high)],
        "shares": {value.text: _short(value.candidates.interval.share) for value in exact.values},
        "ranking": _verdicts(exact),
        "probe": {
            "shares": {_name(each["text"]): _short(each["candidates"]["share"]) for each in probed["values"]},
            "undetermined": _short(probed["undetermined"]["share"]),
            "ranking": {
                _name(each["text"]): [each["verdict"], _short(each["ranking"]["odds"])]
                for each in probed["values"]
                if each["verdict"] in ("favours", "disfavours")
            },
        },
    }
    share = most.candidates.interval.share
    assert share is not None
    return [
        Figure(NAME, share, f"{1 / len(BACKGROUND_NAMES):.3g} if all eleven were as frequent", detail=detail),
        _distance(probed["values"], exact.values),
    ]


def _distance(probed: Sequence[dict[str, Any]], exact: Sequence[ValueFinding]) -> Figure:
    """Half the sum of the differences between the probe's shares, without the undetermined, and those of the pixels.

    None if the probe determines no candidate.
    """
    counts = np.asarray([each["candidates"]["count"] for each in probed], np.float64)
    true = np.asarray([each.candidates.count for each in exact], np.float64)
    if not counts.sum():
        return Figure(MOVED, None, "pixels", detail={"reason": UNDETERMINED})
    distance = 0.5 * float(np.abs(counts / counts.sum() - true / true.sum()).sum())
    return Figure(MOVED, distance, "pixels")


def _asked(fields: int) -> dict[str, Any]:
    values = [_text(name) for name in BACKGROUND_NAMES]
    return {
        "prompts": [PROMPT] * fields,
        "n_candidates": CANDIDATES,
        "seed": 1,
        "force": True,
        "attributes": [{"name": "background", "values": values}],
    }


def _seen(client: httpx.Client, generation: str) -> AuditedField:
    """A generation with the backgrounds that its pixels show."""
    made = client.get(f"/v1/generations/{generation}").json()
    names = []
    for candidate in made["candidates"]:
        data = client.get(f"/v1/generations/{generation}/images/{candidate['index']}").content
        names.append(checks.background(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))
    won = np.asarray([candidate["rank"] == 1 for candidate in made["candidates"]])
    return AuditedField((np.asarray([BACKGROUND_NAMES.index(name) for name in names]),), won)


def _verdicts(found: AttributeFinding) -> dict[str, list[Any]]:
    """The values that the ranking favours or disfavours, with odds and their interval."""
    return {
        value.text: [value.verdict, _short(value.odds.odds), _short(value.odds.low), _short(value.odds.high)]
        for value in found.values
        if value.verdict in ("favours", "disfavours")
    }


def _text(name: str) -> str:
    return f"{PROMPT} on a {name} background"


def _name(text: str) -> str:
    return next(name for name in BACKGROUND_NAMES if _text(name) == text)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
