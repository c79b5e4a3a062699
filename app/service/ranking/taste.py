"""Taste profiles: votes on candidates as embedding directions, and a fitted model.

A profile belongs to one scorer. Votes outlive the generations they refer to.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain import Generation, Taste, TasteProfile, Vote, VoteKind
from app.engine.protocols import Engine
from app.engine.ranking import taste_model
from app.errors import FrontrunnerError, InvalidRequest, NotFound, ProfileLimit, ScorerMismatch
from app.service.candidates.arrays import CandidateArrays, check_index
from app.stores.protocols import ProfileCapsExceeded, VoteStore
from models.protocols import Embeddings

MAX_VOTES = 10_000
"""Maximum votes per profile."""

MAX_CACHED_MODELS = 256
"""Fitted models kept in memory."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """Votes on one generation; `preferred` holds pairs (winner, loser)."""

    generation: str
    liked: tuple[int, ...] = ()
    disliked: tuple[int, ...] = ()
    preferred: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TasteSummary:
    """A profile's summary.

    `agreement` is the share of votes that its own model reproduces.
    """

    profile: str
    scorer: str
    revision: str
    counts: dict[VoteKind, int]
    agreement: float
    bound: float


class TasteService:
    """See the module.

    `get` returns a generation that the caller may see, or raises NotFound.
    """

    def __init__(
        self, engine: Engine, votes: VoteStore, fields: CandidateArrays, get: Callable[[str], Awaitable[Generation]]
    ) -> None:
        self._engine = engine
        self._votes = votes
        self._fields = fields
        self._get = get
        self._models: OrderedDict[tuple[str, str], tuple[str, taste_model.TasteModel]] = OrderedDict()
        self._vote_lock = asyncio.Lock()

    async def list_profiles(self, owner: str) -> list[str]:
        """The caller's profiles."""
        return await self._votes.list_profiles(owner)

    async def cast_votes(self, owner: str, profile: str, ballot: Ballot) -> TasteSummary:
        """Add votes; a repeated vote counts once, an opposite one replaces it.

        Raises InvalidRequest, NotFound, NotReady, ScorerMismatch, ProfileLimit.
        """
        if not (ballot.liked or ballot.disliked or ballot.preferred):
            raise InvalidRequest(
                "the ballot is empty: provide at least one of `liked`, `disliked`, `preferred`", pointer="#"
            )
        generation = await self._generation(ballot.generation)
        embeddings = await self._fields.embeddings(generation)
        _check_ballot(ballot, generation)
        async with self._vote_lock:  # within this process; `add` detects votes of other replicas
            while True:
                known = await self._votes.read(owner, profile)
                merged, new, removed = self._merge_votes(known, ballot, embeddings)
                if known is not None and not (new or removed):  # a repeated ballot does not count its field again
                    return await self._summary(profile, known)
                with _translated_cap_errors():
                    if await self._votes.add(owner, profile, merged, new, removed, known=known):
                        break
        return await self._summary(profile, merged)

    def _merge_votes(
        self, known: TasteProfile | None, ballot: Ballot, embeddings: Embeddings
    ) -> tuple[TasteProfile, list[Vote], list[Vote]]:
        """The profile after the ballot, the votes added and the votes replaced."""
        current = known or self._new_profile(embeddings)
        self._check_scorer(current, "#/generation")
        known_keys = {v.key for v in current.votes}
        requested = _votes(ballot, embeddings)
        new = [v for v in requested if v.key not in known_keys]
        opposite = {_opposite_key(v) for v in requested}
        removed = [v for v in current.votes if v.key in opposite]
        votes = (*(v for v in current.votes if v.key not in opposite), *new)
        if len(votes) > MAX_VOTES:
            raise InvalidRequest(
                f"the profile would hold {len(votes)} votes, above {MAX_VOTES}: use another profile", pointer="#"
            )
        return (
            replace(current, centre=_updated_centre(current, embeddings), fields=current.fields + 1, votes=votes),
            new,
            removed,
        )

    async def read_summary(self, owner: str, profile: str) -> TasteSummary:
        """A profile's summary. Raises NotFound."""
        return await self._summary(profile, await self.export_profile(owner, profile))

    async def export_profile(self, owner: str, profile: str) -> TasteProfile:
        """The whole profile. Raises NotFound."""
        known = await self._votes.read(owner, profile)
        if known is None:
            raise NotFound("there is no such taste profile")
        return known

    async def import_profile(self, owner: str, profile: str, given: TasteProfile) -> TasteSummary:
        """Replace a profile by an exported one, without duplicate votes.

        Raises InvalidRequest, ScorerMismatch and ProfileLimit.
        """
        self._check_scorer(given, "#/scorer")
        if not 1 <= len(given.votes) <= MAX_VOTES:
            raise InvalidRequest(f"{len(given.votes)} votes were sent; send 1 to {MAX_VOTES}", pointer="#/votes")
        width = self._engine.scorer.dimensions
        if len(given.centre) != 4 * width or not np.isfinite(_centre(given)).all():
            raise InvalidRequest(f"centre must hold {width} finite float32 values", pointer="#/centre")
        for place, vote in enumerate(given.votes):
            if len(vote.direction) != 2 * width or not np.isfinite(_direction(vote)).all():
                raise InvalidRequest(
                    f"direction must hold {width} finite float16 values", pointer=f"#/votes/{place}/direction"
                )
        deduplicated = replace(given, votes=tuple({v.key: v for v in given.votes}.values()))
        with _translated_cap_errors():
            await self._votes.replace(owner, profile, deduplicated)
        return await self._summary(profile, deduplicated)

    async def delete_profile(self, owner: str, profile: str) -> None:
        """Delete a profile and its votes. Raises NotFound."""
        if not await self._votes.delete(owner, profile):
            raise NotFound("there is no such taste profile")

    async def resolve(self, owner: str, profile: str, weight: float, pointer: str) -> Taste:
        """A profile for a ranking. Raises NotFound and ScorerMismatch at `pointer`."""
        version = await self._votes.version(owner, profile)
        key = owner, profile
        if version is None:
            raise NotFound("there is no such taste profile", pointer=pointer)
        if key not in self._models or self._models[key][0] != version:
            known = await self.export_profile(owner, profile)
            self._check_scorer(known, pointer)
            self._models[key] = version, await asyncio.to_thread(fit_profile, known)
        self._models.move_to_end(key)
        while len(self._models) > MAX_CACHED_MODELS:
            self._models.popitem(last=False)
        model, bound = self._models[key][1], weight * taste_model.score_bound(self._engine.scorer)
        return Taste(profile, weight, bound, model.offset, tuple(model.vector.astype(np.float32).tolist()))

    async def _generation(self, generation_id: str) -> Generation:
        try:
            return await self._get(generation_id)
        except FrontrunnerError as error:
            error.pointer = "#/generation"
            raise

    async def _summary(self, profile: str, known: TasteProfile) -> TasteSummary:
        model = await asyncio.to_thread(fit_profile, known)
        counts = {kind: sum(v.kind is kind for v in known.votes) for kind in VoteKind}
        agreement = model.agreement(_directions(known)) if known.votes else 0.0
        return TasteSummary(
            profile, known.scorer, known.revision, counts, agreement, taste_model.score_bound(self._engine.scorer)
        )

    def _new_profile(self, embeddings: Embeddings) -> TasteProfile:
        scorer = self._engine.scorer
        return TasteProfile(scorer.id, scorer.revision, np.zeros(embeddings.shape[1], "<f4").tobytes(), 0, ())

    def _check_scorer(self, known: TasteProfile, pointer: str) -> None:
        scorer = self._engine.scorer
        if (known.scorer, known.revision) != (scorer.id, scorer.revision):
            raise ScorerMismatch(
                f"the profile needs scorer {known.scorer!r} with its weights: load it or make a new profile",
                pointer=pointer,
            )


@contextmanager
def _translated_cap_errors() -> Iterator[None]:
    """Translate ProfileCapsExceeded into ProfileLimit."""
    try:
        yield
    except ProfileCapsExceeded as over:
        most, stored = over.caps, over.stored
        raise ProfileLimit(
            f"at most {most.profiles} taste profiles of {most.size} bytes together may be stored, and this would make "
            f"{stored.profiles} of {stored.size} bytes: delete a profile first",
            pointer="#",
        ) from None


def _check_ballot(ballot: Ballot, generation: Generation) -> None:
    for name in ("liked", "disliked"):
        for place, index in enumerate(getattr(ballot, name)):
            check_index(generation, index, f"#/{name}/{place}")
    liked, preferred = set(ballot.liked), set(ballot.preferred)
    for place, index in enumerate(ballot.disliked):
        if index in liked:
            raise InvalidRequest(
                f"candidate {index} is both liked and disliked: keep one vote", pointer=f"#/disliked/{place}"
            )
    for place, pair in enumerate(ballot.preferred):
        if pair[0] == pair[1]:
            raise InvalidRequest(
                "a candidate cannot be preferred to itself: send two different indices", pointer=f"#/preferred/{place}"
            )
        if pair[::-1] in preferred:
            raise InvalidRequest("two pairs contradict each other: keep one of them", pointer=f"#/preferred/{place}")
        for side, index in enumerate(pair):
            check_index(generation, index, f"#/preferred/{place}/{side}")


def _votes(ballot: Ballot, embeddings: Embeddings) -> list[Vote]:
    """The ballot's votes without duplicates."""
    centre = embeddings.mean(axis=0)

    def vote(kind: VoteKind, index: int, over: int | None, direction: NDArray[np.float32]) -> Vote:
        return Vote(kind, ballot.generation, index, over, direction.astype("<f2").tobytes())

    votes = [vote(VoteKind.LIKE, i, None, embeddings[i] - centre) for i in ballot.liked]
    votes += [vote(VoteKind.DISLIKE, i, None, centre - embeddings[i]) for i in ballot.disliked]
    votes += [vote(VoteKind.PREFER, i, j, embeddings[i] - embeddings[j]) for i, j in ballot.preferred]
    return list({v.key: v for v in votes}.values())


def _updated_centre(known: TasteProfile, embeddings: Embeddings) -> bytes:
    """Mean of the fields' means, including one more field."""
    centre = _centre(known) + (embeddings.mean(axis=0) - _centre(known)) / (known.fields + 1)
    data: bytes = np.asarray(centre, "<f4").tobytes()
    return data


_OPPOSITE_KIND = {VoteKind.LIKE: VoteKind.DISLIKE, VoteKind.DISLIKE: VoteKind.LIKE}


def _opposite_key(vote: Vote) -> tuple[object, ...]:
    """The key of the opposite vote."""
    if vote.over is not None:
        return vote.kind, vote.generation, vote.over, vote.index
    return _OPPOSITE_KIND[vote.kind], vote.generation, vote.index, None


def _centre(known: TasteProfile) -> NDArray[np.float32]:
    return np.frombuffer(known.centre, "<f4").astype(np.float32)


def _direction(vote: Vote) -> NDArray[np.float32]:
    return np.frombuffer(vote.direction, "<f2").astype(np.float32)


def _directions(known: TasteProfile) -> NDArray[np.float32]:
    return np.stack([_direction(v) for v in known.votes])


def fit_profile(known: TasteProfile) -> taste_model.TasteModel:
    """The model of a profile that holds votes."""
    return taste_model.fit_taste(_directions(known), _centre(known))
