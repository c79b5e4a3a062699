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
from models.protocols import Calibration
from models.protocols.guards import ArtefactLimits

FORMAT = 3
"""Version of the JSON form."""


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The JSON form."""
    return {"format": FORMAT, **asdict(calibration)}


def from_json(data: Mapping[str, Any]) -> Calibration:
    """A calibration from its JSON form. Raises ValueError.

    `measured`, which describes the calibration run, is ignored.
    """
    try:
        fields: dict[str, Any] = dict(data)
        fields.pop("measured", None)
        if fields.pop("format") != FORMAT:
            raise ValueError(f"unsupported calibration format; use format {FORMAT} (run `frontrunner calibrate` again)")
        values: dict[str, Any] = {k: tuple(map(float, v)) if isinstance(v, list) else v for k, v in fields.items()}
        steered = from_json({"format": FORMAT, **fields["steered"]}) if fields.get("steered") else None
        made = Calibration(**{**values, "artefacts": _limits(values.get("artefacts")), "steered": steered})
        guidance = fields["guidance_scale"]
        lengths = {len(t) for t in (made.spearman, made.correlation, made.preview_weight, made.gap_weight)}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("not a calibration; use a file of `frontrunner calibrate`") from error
    if not isinstance(guidance, int | float) or not 0 <= guidance < inf:
        raise ValueError("`guidance_scale` of the calibration must be a finite number of at least 0")
    if lengths != {made.steps}:
        raise ValueError("the lists of the calibration must hold `steps` values each")
    return made


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
