"""Taste profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain import TasteProfile, Vote


@dataclass(frozen=True, slots=True)
class ProfileCaps:
    """Storage limits per owner: profiles, and bytes of all their vectors."""

    profiles: int = 100
    size: int = 64 * 2**20


@dataclass
class ProfileCapsExceeded(Exception):
    """The write would take `stored` above `caps`."""

    stored: ProfileCaps
    caps: ProfileCaps


class VoteStore(Protocol):
    """Taste profiles by owner and name.

    A write above the store's `ProfileCaps` raises ProfileCapsExceeded and writes nothing, even with concurrent
    replicas.
    """

    async def list_profiles(self, owner: str) -> list[str]:
        """The owner's profile names, sorted."""

    async def version(self, owner: str, profile: str) -> str | None:
        """A string that changes with the profile; None if there is no profile."""

    async def read(self, owner: str, profile: str) -> TasteProfile | None:
        """The profile, with its votes in casting order."""

    async def add(
        self,
        owner: str,
        profile: str,
        contents: TasteProfile,
        new: Sequence[Vote],
        removed: Sequence[Vote],
        *,
        known: TasteProfile | None,
    ) -> bool:
        """Write the head of `contents`, add `new` votes and delete `removed` ones.

        Returns False, and writes nothing, if the profile no longer equals `known`.
        """

    async def replace(self, owner: str, profile: str, contents: TasteProfile) -> None:
        """Replace the whole profile with `contents`."""

    async def delete(self, owner: str, profile: str) -> bool:
        """Delete the profile; False if there is none."""
