"""What stores hold for tuning: generations, votes and taste profiles."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from app.cli.client import CliError
from app.domain import Generation, Status, TasteProfile, VoteKind
from app.engine.ranking.taste_model import DEFAULT_NULL_STD
from app.errors import StoreUnavailable
from app.service.candidates.keys import arrays_key
from app.service.ranking.taste import fit_profile
from app.settings import Settings
from app.stores.blobs import ObjectBlobStore
from app.stores.generations import SqlGenerationStore
from app.stores.privacy import private_folder
from app.stores.protocols import ListQuery, PageMark
from app.stores.taste import SqlVoteStore
from models.protocols import Embedder, GeneratorInfo, Pixels
from models.tuning.rewards import Opinion
from models.tuning.sampling import StoredField

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Race:
    """A usable generation, without its arrays.

    `candidates` are the usable ones, `votes` are likes (True) and dislikes by their places among those.
    """

    generation: str
    prompt: str
    guidance: float
    negative_prompt: str
    candidates: tuple[int, ...]
    votes: dict[int, bool]

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Race:
        """The inverse of `dataclasses.asdict`, after JSON."""
        votes = {int(place): liked for place, liked in row["votes"].items()}
        return cls(**{**row, "candidates": tuple(row["candidates"]), "votes": votes})


@dataclass(slots=True)
class Races:
    """Usable generations of a store, and how many were left out, by reason."""

    races: list[Race] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def prompts(self) -> list[str]:
        """Their prompts, each once."""
        return list(dict.fromkeys(each.prompt for each in self.races))

    @property
    def summary(self) -> str:
        """One line for the user."""
        votes = sum(len(each.votes) for each in self.races)
        rest = "".join(f", {count} left out ({why})" for why, count in self.left_out.items())
        return f"{len(self.races)} stored generations with {votes} votes{rest}"

    def skip(self, why: str) -> None:
        """Count a generation that is left out."""
        self.left_out[why] = self.left_out.get(why, 0) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Taste:
    """A fitted taste profile, `vector` float64 (D,), of a scorer with its revision."""

    scorer: str
    revision: str
    vector: NDArray[np.float64]
    offset: float

    @classmethod
    def of(cls, profile: TasteProfile) -> Taste:
        """Fit a profile that holds votes."""
        model = fit_profile(profile)
        return cls(profile.scorer, profile.revision, model.vector, model.offset)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Taste:
        """The inverse of `to_json`."""
        return cls(row["scorer"], row["revision"], np.asarray(row["vector"], np.float64), row["offset"])

    def to_json(self) -> dict[str, Any]:
        """Its numbers, which JSON keeps exactly."""
        known = {"scorer": self.scorer, "revision": self.revision, "offset": self.offset}
        return {**known, "vector": self.vector.tolist()}


def parse_since(text: str | None) -> float | None:
    """A date or time of ISO 8601 as seconds since the epoch; UTC without a zone.

    Raises CliError.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"--since must be a date such as 2026-01-31 or a time of ISO 8601, not {text!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@asynccontextmanager
async def _records(settings: Settings) -> AsyncIterator[SqlGenerationStore]:
    if not settings.database_url:
        try:
            private_folder(settings.data_dir)
        except OSError:
            raise StoreUnavailable("data_dir cannot be read: check its path and permissions") from None
    records = await SqlGenerationStore.open(settings.database, options=settings.database_options)
    try:
        yield records
    finally:
        await records.close()


async def read_profile(settings: Settings, owner: str, name: str) -> TasteProfile:
    """A taste profile. Raises CliError for one that does not exist or has no votes."""
    async with _records(settings) as records:
        votes = SqlVoteStore(records.connections)
        found = await votes.read(owner, name)
        if found is None or not found.votes:
            known = ", ".join(await votes.list_profiles(owner)) or "none"
            raise CliError(f"there is no taste profile {name!r} with votes: the store holds {known}")
        return found


def taste_opinion(name: str, taste: Taste, scorer: Embedder) -> Opinion:
    """Similarity to the prompt plus the log-odds of a like.

    The similarity is in deviations of unrelated pairs.

    Raises CliError for a profile of another scorer.
    """
    if (taste.scorer, taste.revision) != (scorer.info.id, scorer.info.revision):
        raise CliError(f"the taste profile {name!r} needs scorer {taste.scorer!r} with its weights: load it")
    spread = scorer.info.null_std or DEFAULT_NULL_STD

    def score(prompt: str, images: Pixels) -> NDArray[np.float64]:
        embedded = scorer.embed_images(images).astype(np.float64)
        similarity = embedded @ scorer.embed_texts([prompt])[0].vector
        return np.asarray(similarity / spread + 2 * (embedded @ taste.vector - taste.offset), np.float64)

    revision = hashlib.sha256(taste.vector.tobytes()).hexdigest()[:12]
    return Opinion(f"taste:{name}", revision, score, scorer.embed_images, (scorer,), personal=True)


async def read_races(
    settings: Settings, owner: str, since: float | None, info: GeneratorInfo, profile: str | None
) -> Races:
    """Generations of this model's revision, with votes of one profile or of all.

    Their arrays are not read. Raises CliError if there are none.
    """
    found = Races()
    async with _records(settings) as records:
        votes = await _votes(SqlVoteStore(records.connections), owner, profile)
        query, after = ListQuery(owner, (Status.SUCCEEDED,), since), None
        while page := await records.find(query, after, _PAGE):
            for generation in page:
                why = _unusable(generation, info)
                if why is not None:
                    found.skip(why)
                else:
                    found.races.append(_race(generation, votes.get(generation.id, {})))
            after = PageMark(page[-1].created, page[-1].id)
    if not found.races:
        nothing = f"it holds none {'of this --owner' if owner else 'made without an API key, see --owner'}"
        nothing += "" if since is None else ", since then"
        why = ", ".join(f"{count} of them: {why}" for why, count in found.left_out.items()) or nothing
        raise CliError(
            f"the store holds no usable generation of {info.id!r} at revision {info.revision} ({why}): generate some "
            "with this model, or use --prompts"
        )
    return found


def stored_fields(settings: Settings, races: Sequence[Race]) -> list[StoredField]:
    """Fields whose latents are read from the store when they are needed.

    None stands for latents that are gone or damaged.
    """
    blobs = ObjectBlobStore.open(settings.blobs)

    def field_of(race: Race) -> StoredField:
        def load() -> NDArray[np.float16] | None:
            stored = asyncio.run(blobs.get(arrays_key(race.generation)))
            return None if stored is None else _latents(stored, race.candidates)

        key = f"{race.generation}:{','.join(map(str, race.candidates))}"
        return StoredField(key, race.prompt, load, race.guidance, race.negative_prompt, race.votes)

    return [field_of(race) for race in races]


def _latents(stored: bytes, candidates: Sequence[int]) -> NDArray[np.float16] | None:
    """Latents of these candidates; None for a damaged file."""
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            latents = np.asarray(arrays["latents"], np.float16)[list(candidates)]
    except (BadZipFile, ValueError, KeyError, IndexError, EOFError, OSError):
        return None
    return latents if np.isfinite(latents).all() else None


def _unusable(generation: Generation, info: GeneratorInfo) -> str | None:
    """Why a generation cannot teach this model; None if it can."""
    spec = generation.spec
    if generation.model_revision != info.revision:
        return "another revision"
    if (spec.width, spec.height) != (info.width, info.height):
        return "another size"
    if spec.start is not None or spec.masked or spec.controls or spec.loras or spec.steering:
        return "from images, adapters or steering"
    if spec.wordings and not spec.spread:
        return "from variants of the prompt"
    if len(_usable(generation)) < 2:
        return "fewer than two finished candidates"
    return None


def _usable(generation: Generation) -> list[int]:
    """Finished candidates that safety does not withhold."""
    safety = generation.spec.safety
    return [each.index for each in generation.candidates if each.is_finished and not each.is_withheld(safety)]


def _race(generation: Generation, votes: dict[int, bool]) -> Race:
    """A generation with votes by the places of its usable candidates."""
    kept, spec = _usable(generation), generation.spec
    known = {kept.index(index): liked for index, liked in votes.items() if index in kept}
    return Race(generation.id, spec.prompt, spec.guidance_scale, spec.negative_prompt, tuple(kept), known)


async def _votes(store: SqlVoteStore, owner: str, profile: str | None) -> dict[str, dict[int, bool]]:
    """Likes (True) and dislikes by generation and candidate.

    A preference is one of each.
    """
    found: dict[str, dict[int, bool]] = {}
    for name in [profile] if profile is not None else await store.list_profiles(owner):
        known: Any = await store.read(owner, name)
        for vote in known.votes if known is not None else ():
            cast = found.setdefault(vote.generation, {})
            if vote.kind is VoteKind.PREFER:
                cast.setdefault(vote.index, True)
                cast.setdefault(vote.over, False)
            else:
                cast[vote.index] = vote.kind is VoteKind.LIKE
    return found
