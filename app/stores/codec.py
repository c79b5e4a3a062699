"""Versioned JSON records of generations: old records outlive domain changes.

A record is `{"version": N, "generation": {...}}`; a record without a version has version 1. Each upgrade converts the
fields of one version to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pydantic_core
from pydantic import TypeAdapter
from sqlalchemy import Row

from app.domain import Generation, Progress
from app.errors import StoreUnavailable
from app.stores.schema import generations

VERSION = 2
"""The version that is written."""

_generation = TypeAdapter(Generation)


def encode(generation: Generation) -> str:
    """Encode a generation as a record, without its progress, which has columns.

    NaN and infinity become strings.
    """
    fields = pydantic_core.to_json(generation, inf_nan_mode="strings", exclude={"progress"}).decode()
    return f'{{"version": {VERSION}, "generation": {fields}}}'


def decode(record: str) -> Generation:
    """Decode a record of any version up to `VERSION`.

    Raises StoreUnavailable for a later version.
    """
    found = pydantic_core.from_json(record)
    version, fields = found.get("version", 1), found.get("generation", found)
    if version > VERSION:
        raise StoreUnavailable(
            f"the record has version {version}; this release reads up to {VERSION}: deploy the newer release"
        )
    for upgrade in _UPGRADES[version - 1 :]:
        upgrade(fields)
    return _generation.validate_python(fields)


def columns(generation: Generation) -> dict[str, Any]:
    """The columns of a generation's row that its record determines."""
    return {
        "owner": generation.spec.owner,
        "status": generation.status,
        "created": generation.created,
        "finished": generation.finished,
        "model": generation.model,
        "scorer": generation.scorer,
        "weights": generation.model_revision,
        "candidates": generation.spec.n_candidates,
        "batch": generation.batch,
        "batch_index": generation.batch_index if generation.batch is not None else None,
        "job": generation.job,
        "record": encode(generation),
        **progress_columns(generation.progress),
    }


def from_row(row: Row[*tuple[Any, ...]]) -> Generation:
    """The generation of a row with `ROW`."""
    return replace(decode(row.record), progress=Progress(row.progress, row.step, row.live))


ROW = generations.c.record, generations.c.progress, generations.c.step, generations.c.live
"""The columns that `from_row` reads."""


def progress_columns(progress: Progress) -> dict[str, Any]:
    """The columns that hold a generation's progress."""
    return {"progress": progress.share, "step": progress.step, "live": progress.live}


def to_json(data: Mapping[str, Any]) -> str:
    """Encode `data` as JSON; NaN and infinities become null."""
    return pydantic_core.to_json(data, inf_nan_mode="null").decode()


def _fold_negative_prompt(fields: dict[str, Any]) -> None:
    """Version 1 to 2: `ranking.negatives` contains the negative prompt.

    Version 1 added it implicitly.
    """
    spec = fields["spec"]
    ranking = spec.setdefault("ranking", {})
    if ranking.pop("own_negative", True) and spec["negative_prompt"]:
        first = {"text": spec["negative_prompt"], "weight": 1.0}
        ranking["negatives"] = [first, *ranking.get("negatives", ())]


_UPGRADES: tuple[Callable[[dict[str, Any]], None], ...] = (_fold_negative_prompt,)
