"""API keys and their permissions."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Permission(StrEnum):
    """What a key allows. `ADMIN` includes all, on every owner's generations."""

    GENERATE = "generate"
    RANK = "rank"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller's key without its secret part, of which `digest` is the SHA-256.

    `quota` limits candidates per window of `window_s` seconds; None is unlimited. `secret` signs its webhooks (`whsec_`
    and base64). `revoked` is the time of revocation.
    """

    id: str
    name: str
    digest: bytes = field(repr=False)
    permissions: frozenset[Permission]
    quota: int | None
    window_s: int
    secret: str = field(repr=False)
    created: float
    revoked: float | None = None


class ApiKeyStore(Protocol):
    """API keys."""

    async def list_keys(self) -> list[ApiKey]:
        """All keys, oldest first, including revoked ones."""

    async def add(self, key: ApiKey) -> None:
        """Store a new key."""

    async def revoke(self, key_id: str, now: float) -> bool:
        """Revoke a key; False if there is no active one."""

    async def link_secrets(self) -> list[str]:
        """The keys that verify image links; the first one signs."""

    async def rotate_link_secret(self, secret: str, now: float) -> None:
        """Sign with a new key; the previous one still verifies, earlier ones do not."""
