"""/v1/taste: votes on candidates, by profile. A ranking that names the profile counts them, no other one does."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Body, Path
from pydantic import Field, model_validator

from app.api import openapi
from app.api.dependencies import FaceDep, JsonBody
from app.api.json_body import LongJsonRoute
from app.api.schemas.requests import PROFILE, Request
from app.api.schemas.responses import Answer
from app.domain import Profile, Vote, VoteKind
from app.errors import Invalid
from app.service import Ballot, TasteSummary, owner
from app.service.ranking.taste import MOST_VOTES

router = APIRouter(prefix="/v1/taste", tags=["taste"], route_class=LongJsonRoute)

_EXAMPLES: Any = {
    "likes": {
        "summary": "Two that are liked, one that is not",
        "value": {"generation": openapi.GENERATION, "liked": [3, 11], "disliked": [0]},
    },
    "preference": {
        "summary": "Candidate 3 over candidate 5",
        "value": {"generation": openapi.GENERATION, "preferred": [[3, 5]]},
    },
}

Named: TypeAlias = Annotated[str, Path(pattern=PROFILE, description="Letters, digits, '.', '_' and '-'; at most 64.")]
Index: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]


class VotesIn(Request):
    """Votes on the candidates of one generation. The same vote cast again counts once, the contrary one replaces it."""

    generation: str = Field(max_length=64)
    liked: list[Index] = Field([], max_length=1024)
    disliked: list[Index] = Field([], max_length=1024)
    preferred: list[Annotated[list[Index], Field(min_length=2, max_length=2)]] = Field(
        [], max_length=4096, description="Pairs: this index over that one."
    )

    def to_domain(self) -> Ballot:
        """As the service takes it."""
        pairs = tuple((pair[0], pair[1]) for pair in self.preferred)
        return Ballot(self.generation, tuple(self.liked), tuple(self.disliked), pairs)


class TasteOut(Answer):
    """A profile in short. `agreement` is the share of votes that the fit would cast alike, `bound` its most."""

    object: Literal["taste"] = "taste"
    profile: str
    scorer: str
    revision: str
    liked: int
    disliked: int
    preferred: int
    agreement: float
    bound: float

    @classmethod
    def from_domain(cls, known: TasteSummary) -> TasteOut:
        """As callers get it."""
        return cls(
            profile=known.profile,
            scorer=known.scorer,
            revision=known.revision,
            liked=known.counts[VoteKind.LIKE],
            disliked=known.counts[VoteKind.DISLIKE],
            preferred=known.counts[VoteKind.PREFER],
            agreement=known.agreement,
            bound=known.bound,
        )


class TastesOut(Answer):
    """The names of the profiles."""

    object: Literal["list"] = "list"
    data: list[str]


class VoteDoc(Request):
    """A vote: `direction` is float16, little-endian, in base64; the rest tells where it comes from."""

    kind: Literal["like", "dislike", "prefer"]
    generation: str = Field(max_length=64)
    index: Index
    over: Index | None = None
    direction: str = Field(max_length=65_536)

    @model_validator(mode="after")
    def _over_another(self) -> VoteDoc:
        if (self.kind == "prefer") != (self.over is not None):
            raise ValueError("over goes with prefer, and with nothing else")
        return self


class ProfileDoc(Request):
    """A whole profile, to keep or to carry to another service with the same scorer. `centre` is float32."""

    object: Literal["taste_profile"] = "taste_profile"
    scorer: str = Field(max_length=300)
    revision: str = Field(max_length=300)
    centre: str = Field(max_length=131_072)
    fields: int = Field(ge=1, lt=2**31)
    votes: list[VoteDoc] = Field(max_length=MOST_VOTES, fail_fast=True)

    @classmethod
    def from_domain(cls, known: Profile) -> ProfileDoc:
        """As callers get it."""
        votes = [
            VoteDoc(
                kind=v.kind.value, generation=v.generation, index=v.index, over=v.over, direction=_text(v.direction)
            )
            for v in known.votes
        ]
        return cls(
            scorer=known.scorer, revision=known.revision, centre=_text(known.centre), fields=known.fields, votes=votes
        )

    def to_domain(self) -> Profile:
        """As the service takes it. Raises Invalid for what is no base64."""
        votes = tuple(
            Vote(VoteKind(v.kind), v.generation, v.index, v.over, _bytes(v.direction, f"#/votes/{place}/direction"))
            for place, v in enumerate(self.votes)
        )
        return Profile(self.scorer, self.revision, _bytes(self.centre, "#/centre"), self.fields, votes)


@router.get("", summary="The profiles", responses=openapi.errors(503))
@router.head("", include_in_schema=False)
async def names(face: FaceDep) -> TastesOut:
    """By name."""
    return TastesOut(data=await face.tastes.names(owner()))


@router.post(
    "/{profile}/votes",
    summary="Vote",
    dependencies=[JsonBody],
    responses=openapi.errors(400, 404, 409, 413, 415, 422, 503),
)
async def vote(profile: Named, asked: Annotated[VotesIn, Body(openapi_examples=_EXAMPLES)], face: FaceDep) -> TasteOut:
    """Makes the profile if there is none."""
    return TasteOut.from_domain(await face.tastes.vote(owner(), profile, asked.to_domain()))


@router.get("/{profile}", summary="What is known of a profile", responses=openapi.errors(404, 422, 503))
@router.head("/{profile}", include_in_schema=False)
async def read(profile: Named, face: FaceDep) -> TasteOut:
    """How many votes of each kind, and how well they fit together."""
    return TasteOut.from_domain(await face.tastes.read(owner(), profile))


@router.delete("/{profile}", summary="Forget a profile", status_code=204, responses=openapi.errors(404, 422, 503))
async def forget(profile: Named, face: FaceDep) -> None:
    """And all its votes."""
    await face.tastes.forget(owner(), profile)


@router.get("/{profile}/export", summary="A whole profile", responses=openapi.errors(404, 422, 503))
@router.head("/{profile}/export", include_in_schema=False)
async def export(profile: Named, face: FaceDep) -> ProfileDoc:
    """What PUT takes."""
    return ProfileDoc.from_domain(await face.tastes.export(owner(), profile))


@router.put(
    "/{profile}", summary="Import a profile", dependencies=[JsonBody], responses=openapi.errors(400, 413, 415, 422, 503)
)
async def take_in(profile: Named, asked: ProfileDoc, face: FaceDep) -> TasteOut:
    """In place of what is there; refused when it was made with another scorer."""
    return TasteOut.from_domain(await face.tastes.take_in(owner(), profile, asked.to_domain()))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str, pointer: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("not base64", pointer=pointer) from None
