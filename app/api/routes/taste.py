"""/v1/taste: votes on candidates, by profile. A ranking that names the profile counts them, no other one does."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Body, Path
from pydantic import Field, model_validator

from app.api import openapi
from app.api.dependencies import JsonBody, ServicesDep
from app.api.json_body import LongJsonRoute
from app.api.schemas.requests import PROFILE_PATTERN, RequestModel
from app.api.schemas.responses import ResponseModel
from app.domain import TasteProfile, Vote, VoteKind
from app.errors import InvalidRequest
from app.service import Ballot, TasteSummary, current_owner
from app.service.ranking.taste import MAX_VOTES

router = APIRouter(prefix="/v1/taste", tags=["taste"], route_class=LongJsonRoute)

_EXAMPLES: Any = {
    "likes": {
        "summary": "Two that are liked, one that is not",
        "value": {"generation": openapi.EXAMPLE_GENERATION_ID, "liked": [3, 11], "disliked": [0]},
    },
    "preference": {
        "summary": "Candidate 3 over candidate 5",
        "value": {"generation": openapi.EXAMPLE_GENERATION_ID, "preferred": [[3, 5]]},
    },
}

ProfilePath: TypeAlias = Annotated[
    str, Path(pattern=PROFILE_PATTERN, description="Letters, digits, '.', '_' and '-'; at most 64.")
]
VoteIndex: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]


class VotesRequest(RequestModel):
    """Votes on the candidates of one generation. The same vote cast again counts once, the contrary one replaces it."""

    generation: str = Field(max_length=64)
    liked: list[VoteIndex] = Field([], max_length=1024)
    disliked: list[VoteIndex] = Field([], max_length=1024)
    preferred: list[Annotated[list[VoteIndex], Field(min_length=2, max_length=2)]] = Field(
        [], max_length=4096, description="Pairs: this index over that one."
    )

    def to_domain(self) -> Ballot:
        """As the service takes it."""
        pairs = tuple((pair[0], pair[1]) for pair in self.preferred)
        return Ballot(self.generation, tuple(self.liked), tuple(self.disliked), pairs)


class TasteProfileResponse(ResponseModel):
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
    def from_domain(cls, known: TasteSummary) -> TasteProfileResponse:
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


class TasteProfileListResponse(ResponseModel):
    """The names of the profiles."""

    object: Literal["list"] = "list"
    data: list[str]


class VoteDocument(RequestModel):
    """A vote: `direction` is float16, little-endian, in base64; the rest tells where it comes from."""

    kind: Literal["like", "dislike", "prefer"]
    generation: str = Field(max_length=64)
    index: VoteIndex
    over: VoteIndex | None = None
    direction: str = Field(max_length=65_536)

    @model_validator(mode="after")
    def _check_over(self) -> VoteDocument:
        if (self.kind == "prefer") != (self.over is not None):
            raise ValueError("over goes with prefer, and with nothing else")
        return self


class TasteProfileDocument(RequestModel):
    """A whole profile, to keep or to carry to another service with the same scorer. `centre` is float32."""

    object: Literal["taste_profile"] = "taste_profile"
    scorer: str = Field(max_length=300)
    revision: str = Field(max_length=300)
    centre: str = Field(max_length=131_072)
    fields: int = Field(ge=1, lt=2**31)
    votes: list[VoteDocument] = Field(max_length=MAX_VOTES, fail_fast=True)

    @classmethod
    def from_domain(cls, known: TasteProfile) -> TasteProfileDocument:
        """As callers get it."""
        votes = [
            VoteDocument(
                kind=v.kind.value,
                generation=v.generation,
                index=v.index,
                over=v.over,
                direction=_encode_base64(v.direction),
            )
            for v in known.votes
        ]
        return cls(
            scorer=known.scorer,
            revision=known.revision,
            centre=_encode_base64(known.centre),
            fields=known.fields,
            votes=votes,
        )

    def to_domain(self) -> TasteProfile:
        """As the service takes it. Raises InvalidRequest for what is no base64."""
        votes = tuple(
            Vote(
                VoteKind(v.kind),
                v.generation,
                v.index,
                v.over,
                _decode_base64(v.direction, f"#/votes/{place}/direction"),
            )
            for place, v in enumerate(self.votes)
        )
        return TasteProfile(self.scorer, self.revision, _decode_base64(self.centre, "#/centre"), self.fields, votes)


@router.get("", summary="The profiles", responses=openapi.error_responses(503))
@router.head("", include_in_schema=False)
async def list_profiles(services: ServicesDep) -> TasteProfileListResponse:
    """By name."""
    return TasteProfileListResponse(data=await services.taste.list_profiles(current_owner()))


@router.post(
    "/{profile}/votes",
    summary="Vote",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 404, 409, 413, 415, 422, 503),
)
async def cast_votes(
    profile: ProfilePath, body: Annotated[VotesRequest, Body(openapi_examples=_EXAMPLES)], services: ServicesDep
) -> TasteProfileResponse:
    """Makes the profile if there is none."""
    return TasteProfileResponse.from_domain(await services.taste.cast_votes(current_owner(), profile, body.to_domain()))


@router.get("/{profile}", summary="What is known of a profile", responses=openapi.error_responses(404, 422, 503))
@router.head("/{profile}", include_in_schema=False)
async def read_profile(profile: ProfilePath, services: ServicesDep) -> TasteProfileResponse:
    """How many votes of each kind, and how well they fit together."""
    return TasteProfileResponse.from_domain(await services.taste.read_summary(current_owner(), profile))


@router.delete(
    "/{profile}", summary="Forget a profile", status_code=204, responses=openapi.error_responses(404, 422, 503)
)
async def delete_profile(profile: ProfilePath, services: ServicesDep) -> None:
    """And all its votes."""
    await services.taste.delete_profile(current_owner(), profile)


@router.get("/{profile}/export", summary="A whole profile", responses=openapi.error_responses(404, 422, 503))
@router.head("/{profile}/export", include_in_schema=False)
async def export_profile(profile: ProfilePath, services: ServicesDep) -> TasteProfileDocument:
    """What PUT takes."""
    return TasteProfileDocument.from_domain(await services.taste.export_profile(current_owner(), profile))


@router.put(
    "/{profile}",
    summary="Import a profile",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 413, 415, 422, 503),
)
async def import_profile(
    profile: ProfilePath, body: TasteProfileDocument, services: ServicesDep
) -> TasteProfileResponse:
    """In place of what is there; refused when it was made with another scorer."""
    return TasteProfileResponse.from_domain(
        await services.taste.import_profile(current_owner(), profile, body.to_domain())
    )


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode_base64(text: str, pointer: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("not base64", pointer=pointer) from None
