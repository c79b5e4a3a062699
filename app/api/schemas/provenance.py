"""The field `provenance` of requests."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator

from app.domain import Provenance


def _check_available(value: str) -> str:
    if value == "c2pa":
        raise ValueError("c2pa is not available: send `none` or `metadata`")
    return value


ProvenanceInput: TypeAlias = Annotated[Literal["none", "metadata", "c2pa"], AfterValidator(_check_available)]
"""What files contain about their origin; c2pa is reserved for signed manifests."""


def to_provenance(value: str | None) -> Provenance | None:
    """Convert to the domain."""
    return Provenance(value) if value is not None else None
