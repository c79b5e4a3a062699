"""Calibrations as JSON, in a pack's manifest or in a file of their own. How they are made and used is the engine's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

from models.errors import ModelUnsupported
from models.protocols import Calibration

FORMAT = 3
"""Version of the JSON form."""


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The JSON form."""
    return {"format": FORMAT, **asdict(calibration)}


def from_json(data: Mapping[str, Any]) -> Calibration:
    """A calibration from its JSON form; `measured`, what the run says of itself, is passed over. Raises ValueError."""
    try:
        fields: dict[str, Any] = dict(data)
        fields.pop("measured", None)
        if fields.pop("format") != FORMAT:
            raise ValueError(f"a calibration of format {FORMAT} is needed")
        values: dict[str, Any] = {k: tuple(map(float, v)) if isinstance(v, list) else v for k, v in fields.items()}
        made = Calibration(**values)
        guidance = fields["guidance_scale"]
        lengths = {len(t) for t in (made.spearman, made.correlation, made.preview_weight, made.gap_weight)}
    except (KeyError, TypeError) as error:
        raise ValueError("this is not a calibration") from error
    if not isinstance(guidance, int | float) or not 0 <= guidance < inf:
        raise ValueError("a calibration needs the guidance scale it was made at")
    if lengths != {made.steps}:
        raise ValueError("a calibration needs one value a step")
    return made


def read_calibration(path: Path) -> Calibration:
    """A calibration from its file. Raises ModelUnsupported when there is none or it cannot be read."""
    try:
        return from_json(json.loads(path.read_text()))
    except OSError as error:
        raise ModelUnsupported(f"the calibration {path.name!r} cannot be read") from error
    except ValueError as error:
        raise ModelUnsupported(f"the calibration {path.name!r} cannot be used: {error}") from error
