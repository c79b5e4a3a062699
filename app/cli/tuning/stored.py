"""What stores hold for tuning: generations, votes and taste profiles."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

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
from models.tuning.sampling import Field

_PAGE = 100


@dataclass(slots=True)
class Races:
    """Usable fields of a store, and how many generations were left out, by reason."""

    fields: list[Field] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def prompts(self) -> list[str]:
        """Their prompts, each once."""
        return list(dict.fromkeys(each.prompt for each in self.fields))

    @property
    def summary(self) -> str:
        """One line for the user."""
        votes = sum(len(each.votes) for each in self.fields)
        rest = "".join(f", {count} left out ({why})" for why, count in self.left_out.items())
        return f"{len(self.fields)} stored generations with {votes} votes{rest}"

    def skip(self, why: str) -> None:
        """Count a generation that is left out."""
        self.left_out[why] = self.left_out.get(why, 0) + 1


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


def taste_opinion(name: str, profile: TasteProfile, scorer: Embedder) -> Opinion:
    """Similarity to the prompt plus the log-odds of a like.

    The similarity is in deviations of unrelated pairs.

    Raises CliError for a profile of another scorer.
    """
    if (profile.scorer, profile.revision) != (scorer.info.id, scorer.info.revision):
        raise CliError(f"the taste profile {name!r} needs scorer {profile.scorer!r} with its weights: load it")
    model, spread = fit_profile(profile), scorer.info.null_std or DEFAULT_NULL_STD

    def score(prompt: str, images: Pixels) -> NDArray[np.float64]:
        embedded = scorer.embed_images(images).astype(np.float64)
        similarity = embedded @ scorer.embed_texts([prompt])[0].vector
        return np.asarray(similarity / spread + 2 * (embedded @ model.vector - model.offset), np.float64)

    revision = hashlib.sha256(model.vector.tobytes()).hexdigest()[:12]
    return Opinion(f"taste:{name}", revision, score, scorer.embed_images, (scorer,))


async def read_races(
    settings: Settings, owner: str, since: float | None, info: GeneratorInfo, profile: str | None
) -> Races:
    """Fields of this model's revision, with votes of one profile or of all.

    Raises CliError if there are none.
    """
    races = Races()
    async with _records(settings) as records:
        blobs = ObjectBlobStore.open(settings.blobs)
        votes = await _votes(SqlVoteStore(records.connections), owner, profile)
        query, after = ListQuery(owner, (Status.SUCCEEDED,), since), None
        while page := await records.find(query, after, _PAGE):
            for generation in page:
                why = _unusable(generation, info)
                stored = None if why else await blobs.get(arrays_key(generation.id))
                if why or stored is None:
                    races.skip(why or "files are gone")
                else:
                    races.fields.append(_field(generation, stored, votes.get(generation.id, {})))
            after = PageMark(page[-1].created, page[-1].id)
    if not races.fields:
        found = ", ".join(f"{count} of them: {why}" for why, count in races.left_out.items()) or "it is empty"
        raise CliError(
            f"the store holds no usable generation of {info.id!r} at revision {info.revision} ({found}): generate some "
            "with this model, or use --prompts"
        )
    return races


def _unusable(generation: Generation, info: GeneratorInfo) -> str | None:
    """Why a generation cannot teach this model; None if it can."""
    spec = generation.spec
    if generation.model_revision != info.revision:
        return "another revision"
    if (spec.width, spec.height) != (info.width, info.height):
        return "another size"
    if spec.start is not None or spec.masked or spec.controls or spec.loras or spec.wordings or spec.steering:
        return "from images, adapters, wordings or steering"
    if len(_usable(generation)) < 2:
        return "fewer than two finished candidates"
    return None


def _usable(generation: Generation) -> list[int]:
    """Finished candidates that safety does not withhold."""
    safety = generation.spec.safety
    return [each.index for each in generation.candidates if each.is_finished and not each.is_withheld(safety)]


def _field(generation: Generation, stored: bytes, votes: dict[int, bool]) -> Field:
    """The usable candidates of a generation, with votes by their new places."""
    kept = _usable(generation)
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        latents = np.asarray(arrays["latents"], np.float16)[kept]
    known = {kept.index(index): liked for index, liked in votes.items() if index in kept}
    return Field(generation.spec.prompt, latents, votes=known)


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
