"""How a generation is stored: versioned JSON, so that the domain may change while old records stay readable.

A record is `{"version": N, "generation": {...}}`. Records without a version are of the first form. Each upgrade takes
the fields of one version to those of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core
from pydantic import TypeAdapter

from app.domain import Generation
from app.errors import StoreUnavailable

VERSION = 2
"""The form that is written."""

_generation = TypeAdapter(Generation)


def encode(generation: Generation) -> str:
    """The record of a generation. NaN and infinity are stored as strings."""
    fields = pydantic_core.to_json(generation, inf_nan_mode="strings").decode()
    return f'{{"version": {VERSION}, "generation": {fields}}}'


def decode(record: str) -> Generation:
    """The generation of a record of any version up to `VERSION`. Raises StoreUnavailable for a later one."""
    found = pydantic_core.from_json(record)
    version, fields = found.get("version", 1), found.get("generation", found)
    if version > VERSION:
        raise StoreUnavailable(
            f"the record has form {version} and this release reads up to {VERSION}: deploy the newer release"
        )
    for upgrade in _UPGRADES[version - 1 :]:
        upgrade(fields)
    return _generation.validate_python(fields)


def columns(generation: Generation) -> dict[str, Any]:
    """The columns of a generation's row that its record decides."""
    return {
        "owner": generation.spec.owner,
        "status": generation.status,
        "created": generation.created,
        "finished": generation.finished,
        "model": generation.model,
        "scorer": generation.scorer,
        "candidates": generation.spec.n_candidates,
        "record": encode(generation),
    }


def to_json(data: Mapping[str, Any]) -> str:
    """`data` as JSON; numbers that JSON cannot hold (NaN, infinities) become null."""
    return pydantic_core.to_json(data, inf_nan_mode="null").decode()


def _fold_negative_prompt(fields: dict[str, Any]) -> None:
    """Form 1 to 2: the ranking lists every negative; the negative prompt was counted beside the list."""
    spec = fields["spec"]
    ranking = spec.setdefault("ranking", {})
    if ranking.pop("own_negative", True) and spec["negative_prompt"]:
        first = {"text": spec["negative_prompt"], "weight": 1.0}
        ranking["negatives"] = [first, *ranking.get("negatives", ())]


_UPGRADES: tuple[Callable[[dict[str, Any]], None], ...] = (_fold_negative_prompt,)
