"""Names of guards in the setting `GUARDS`, and whether they are installed."""

from __future__ import annotations

from models.guards.text_reader import INSTALL, is_installed
from models.protocols.guards import GUARDS, TYPOGRAPHIC


def installed_guards() -> tuple[str, ...]:
    """Return the guards that can run here."""
    return tuple(name for name in GUARDS if name != TYPOGRAPHIC or is_installed())


def parse_guards(text: str) -> tuple[str, ...]:
    """Return the guards of a comma-separated list, in their own order.

    Raises ValueError for an unknown guard, and for one that is not installed.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := names - set(GUARDS):
        raise ValueError(f"GUARDS must be guards among {', '.join(GUARDS)}, comma-separated, not {min(unknown)!r}")
    if missing := names - set(installed_guards()):
        raise ValueError(f"GUARDS: {min(missing)} is not installed; run `{INSTALL}`")
    return tuple(name for name in GUARDS if name in names)
