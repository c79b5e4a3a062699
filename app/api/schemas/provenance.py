"""The field `provenance` of requests."""

from __future__ import annotations

from typing import Literal, TypeAlias

from app.domain import Provenance

ProvenanceInput: TypeAlias = Literal["none", "metadata", "c2pa"]
"""What files contain about their origin.

Nothing, the parameters, or a signed C2PA manifest.
"""


def to_provenance(value: str | None) -> Provenance | None:
    """Convert to the domain."""
    return Provenance(value) if value is not None else None
