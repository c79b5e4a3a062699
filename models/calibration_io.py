"""Calibrations as JSON, in a pack's manifest or in a file.

The engine measures and uses them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import inf, isfinite
from pathlib import Path
from typing import Any

from models.errors import ModelUnsupported
from models.protocols import Calibration, MatchCalibration, PreviewHead, ReplayedPlans
from models.protocols.guards import ArtefactLimits

FORMAT = 4
"""Version of the JSON form."""

READABLE = (3, FORMAT)
"""Versions that can be read. In version 3 there was no preview head."""


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The JSON form."""
    return {"format": FORMAT, **asdict(calibration)}


def _check_finite(value: object) -> None:
    """Raises ValueError if a number is NaN or infinite, which Python reads as JSON."""
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("a number of the calibration is NaN or infinite: run `frontrunner calibrate` again")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            _check_finite(each)


def from_json(data: Mapping[str, Any]) -> Calibration:
    """A calibration from its JSON form. Raises ValueError.

    `measured`, which describes the calibration run, is ignored.
    """
    _check_finite(data)
    try:
        fields: dict[str, Any] = dict(data)
        fields.pop("measured", None)
        if fields.pop("format") not in READABLE:
            raise ValueError(f"unsupported calibration format; use format {FORMAT} (run `frontrunner calibrate` again)")
        match = match_from_json(fields.pop("match", None))
        values: dict[str, Any] = {k: tuple(map(float, v)) if isinstance(v, list) else v for k, v in fields.items()}
        steered = from_json({"format": FORMAT, **fields["steered"]}) if fields.get("steered") else None
        parts = {
            "artefacts": _limits(values.get("artefacts")),
            "steered": steered,
            "head": _head(fields.get("head")),
            "match": match,
            "replay": _replay(fields.get("replay")),
        }
        made = Calibration(**{**values, **parts})
        guidance = fields["guidance_scale"]
        lengths = {len(t) for t in (made.spearman, made.correlation, made.preview_weight, made.gap_weight)}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("not a calibration; use a file of `frontrunner calibrate`") from error
    if not isinstance(guidance, int | float) or not 0 <= guidance < inf:
        raise ValueError("`guidance_scale` of the calibration must be a finite number of at least 0")
    if lengths != {made.steps}:
        raise ValueError("the lists of the calibration must hold `steps` values each")
    if made.head is not None and len(made.head.used) != made.steps:
        raise ValueError("`head` of the calibration must hold `steps` values per list")
    return made


def _head(found: Mapping[str, Any] | None) -> PreviewHead | None:
    """A head from its JSON form. Raises ValueError, KeyError and TypeError."""
    if found is None:
        return None
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    if not all(isinstance(each, bool) for each in fields["used"]):
        raise ValueError("`used` of the calibration's head must hold booleans")
    sizes = (fields["dimensions"], *fields["ranks"])
    if len(sizes) != 3 or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError("`dimensions` and both `ranks` of the calibration's head must be whole numbers")
    head = PreviewHead(**fields)
    errors = (head.linear_error, head.head_error)
    if {len(each) for each in errors} != {len(head.used)} or not all(isfinite(v) for each in errors for v in each):
        raise ValueError("the errors of the calibration's head must hold a finite number per step")
    try:
        head.arrays()
    except ValueError as error:
        raise ValueError(f"the calibration cannot be used: {error}") from error
    return head


def _replay(found: Mapping[str, Any] | None) -> ReplayedPlans | None:
    """What plans kept, from its JSON form. Raises ValueError, KeyError and TypeError."""
    if found is None:
        return None
    replay = ReplayedPlans(**found)
    counts: tuple[Any, ...] = (replay.candidates, replay.prompts)
    if not all(isinstance(count, int) and count >= 2 for count in counts):
        raise ValueError("`candidates` and `prompts` of the calibration's replay must be whole numbers of at least 2")
    positive = (replay.loss_ratio, replay.loss_ratio_error, replay.kept_error)
    if not all(isfinite(value) and value >= 0 for value in positive) or not isfinite(replay.kept):
        raise ValueError("`replay` of the calibration must hold finite numbers, and errors and a ratio of at least 0")
    if not 0 < replay.quality < 1:
        raise ValueError("`quality` of the calibration's replay must lie between 0 and 1")
    return replay


def match_from_json(found: Mapping[str, Any] | None) -> MatchCalibration | None:
    """The probability of a match from its JSON form.

    Raises ValueError, KeyError and TypeError.
    """
    if found is None:
        return None
    rows = tuple(tuple(map(float, row)) for row in found["reliability"])
    match = MatchCalibration(**{**found, "reliability": rows})
    numbers = (match.slope, match.intercept, match.noise, match.error, match.pairs, *(v for row in rows for v in row))
    if not all(isfinite(value) for value in numbers) or any(len(row) != 3 for row in rows):
        raise ValueError("`match` of the calibration must hold finite numbers, three per row of `reliability`")
    if not match.slope > 0 or match.noise < 0:
        raise ValueError("`match` of the calibration must have a slope above 0 and a noise of at least 0")
    return match


def _limits(found: Mapping[str, float | None] | None) -> ArtefactLimits | None:
    if found is None:
        return None
    if not all(value is None or isfinite(value) for value in found.values()):
        raise ValueError("`artefacts` of the calibration must hold finite numbers or null")
    return ArtefactLimits(**found)  # type: ignore[arg-type]


def read_calibration(path: Path) -> Calibration:
    """A calibration from its file.

    Raises ModelUnsupported for a missing, unreadable or invalid file.
    """
    try:
        return from_json(json.loads(path.read_text()))
    except OSError as error:
        raise ModelUnsupported(f"cannot read the calibration file {path.name!r}") from error
    except ValueError as error:
        raise ModelUnsupported(f"cannot use the calibration file {path.name!r}: {error}") from error
