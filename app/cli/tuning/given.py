"""What a tuning run was given, kept in its folder.

Later generations and votes do not change a run that resumes.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

from app.cli.client import CliError
from app.cli.tuning.stored import Race, Races, Taste, read_profile, read_races
from app.settings import Settings
from models.protocols import GeneratorInfo
from models.tuning.state import RunFolder

FILE = "given.json"
"""The file in the folder of a run."""

_OPTIONS = {"from_store": "--from-store", "owner": "--owner", "since": "--since", "profile": "--reward"}
"""The option of each field of `Wanted`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options that say what is read from the stores.

    `since` is in seconds since the epoch.
    """

    from_store: bool
    owner: str
    since: float | None
    profile: str | None


@dataclass(frozen=True, slots=True)
class Given:
    """Generations by their ids, with votes, and a fitted taste profile.

    None stands for what was not wanted.
    """

    races: Races | None
    taste: Taste | None

    def to_json(self) -> dict[str, Any]:
        """The document of `FILE`, without the options."""
        races = None if self.races is None else asdict(self.races)
        return {"races": races, "taste": None if self.taste is None else self.taste.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Given:
        """The inverse of `to_json`."""
        races, taste = document["races"], document["taste"]
        if races is not None:
            races = Races([Race.from_json(row) for row in races["races"]], races["left_out"])
        return cls(races, None if taste is None else Taste.from_json(taste))


def given(settings: Settings, wanted: Wanted, info: GeneratorInfo, folder: RunFolder) -> Given:
    """What a run has begun with, else what the stores hold now.

    That is written to the folder.

    Raises CliError for a run with other options, a damaged file and useless stores, and TuningError if the folder
    cannot be written.
    """
    if folder.has_state:
        return _known(wanted, folder)
    made = asyncio.run(_read(settings, wanted, info))
    folder.write_json(FILE, {"options": asdict(wanted), **made.to_json()})
    return made


def _known(wanted: Wanted, folder: RunFolder) -> Given:
    document = folder.read_json(FILE)
    try:
        if document is None:
            raise ValueError
        options, known = dict(document["options"]), Given.from_json(document)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CliError(f"{FILE} in --out is missing or damaged: use another folder") from None
    if options != asdict(wanted):
        names = ", ".join(_OPTIONS[name] for name, value in asdict(wanted).items() if options.get(name) != value)
        raise CliError(f"--out holds a run with other options ({names}): use them, or another folder")
    return known


async def _read(settings: Settings, wanted: Wanted, info: GeneratorInfo) -> Given:
    profile = None if wanted.profile is None else await read_profile(settings, wanted.owner, wanted.profile)
    races = None
    if wanted.from_store:
        races = await read_races(settings, wanted.owner, wanted.since, info, wanted.profile)
    return Given(races, None if profile is None else Taste.of(profile))
