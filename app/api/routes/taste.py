"""Taste profiles at /v1/taste: votes on candidates.

Only rankings that name a profile use it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Body, Path
from pydantic import Field, model_validator

from app.api import openapi
from app.api.dependencies import JsonBody, ServicesDep
from app.api.json_body import LongJsonRoute
from app.api.schemas.base import PROFILE_PATTERN, Between, Index, RequestModel, ResponseModel
from app.domain import TasteProfile, Vote, VoteKind
from app.errors import InvalidRequest
from app.service import Ballot, TasteSummary, current_owner
from app.service.ranking.taste import MAX_VOTES

router = APIRouter(prefix="/v1/taste", tags=["taste"], route_class=LongJsonRoute)

_EXAMPLES: Any = {
    "likes": {
        "summary": "Two liked, one disliked",
        "value": {"generation": openapi.EXAMPLE_GENERATION_ID, "liked": [3, 11], "disliked": [0]},
    },
    "preference": {
        "summary": "Candidate 3 preferred over candidate 5",
        "value": {"generation": openapi.EXAMPLE_GENERATION_ID, "preferred": [[3, 5]]},
    },
}

ProfilePath: TypeAlias = Annotated[
    str,
    Path(
        pattern=PROFILE_PATTERN,
        description="1 to 64 letters, digits, '.', '_' and '-'; starts with a letter or digit.",
    ),
]


class VotesRequest(RequestModel):
    """Votes on the candidates of one generation.

    A repeated vote counts once; an opposite vote replaces the earlier one.
    """

    generation: str = Field(max_length=64)
    liked: list[Index] = Field([], max_length=1024)
    disliked: list[Index] = Field([], max_length=1024)
    preferred: list[Annotated[list[Index], Field(min_length=2, max_length=2)]] = Field(
        [], max_length=4096, description="Pairs of indices: the first is preferred over the second."
    )

    def to_domain(self) -> Ballot:
        """Convert to the domain."""
        pairs = tuple((pair[0], pair[1]) for pair in self.preferred)
        return Ballot(self.generation, tuple(self.liked), tuple(self.disliked), pairs)


class TasteProfileResponse(ResponseModel):
    """A summary of a profile.

    `agreement` is the fraction of votes that the fitted model reproduces. `bound` is the largest change of a score.
    """

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
    def from_domain(cls, summary: TasteSummary) -> TasteProfileResponse:
        """Convert from the domain."""
        return cls(
            profile=summary.profile,
            scorer=summary.scorer,
            revision=summary.revision,
            liked=summary.counts[VoteKind.LIKE],
            disliked=summary.counts[VoteKind.DISLIKE],
            preferred=summary.counts[VoteKind.PREFER],
            agreement=summary.agreement,
            bound=summary.bound,
        )


class TasteProfileListResponse(ResponseModel):
    """The names of the profiles."""

    object: Literal["list"] = "list"
    data: list[str]


class VoteDocument(RequestModel):
    """A vote with its source.

    `direction` is a float16 vector, little-endian, in base64. `over` is the index of the rejected candidate.
    """

    kind: Literal["like", "dislike", "prefer"]
    generation: str = Field(max_length=64)
    index: Index
    over: Index | None = None
    direction: str = Field(max_length=65_536)

    @model_validator(mode="after")
    def _check_over(self) -> VoteDocument:
        if (self.kind == "prefer") != (self.over is not None):
            raise ValueError("`over` is required for kind prefer and not allowed for others")
        return self


class TasteProfileDocument(RequestModel):
    """A complete profile, for backup or import on a server with the same scorer.

    `centre` is a float32 vector, little-endian, in base64.
    """

    object: Literal["taste_profile"] = "taste_profile"
    scorer: str = Field(max_length=300)
    revision: str = Field(max_length=300)
    centre: str = Field(max_length=131_072)
    fields: Annotated[int, Between(1, 2**31 - 1)]
    votes: list[VoteDocument] = Field(max_length=MAX_VOTES, fail_fast=True)

    @classmethod
    def from_domain(cls, profile: TasteProfile) -> TasteProfileDocument:
        """Convert from the domain."""
        votes = [
            VoteDocument(
                kind=v.kind.value,
                generation=v.generation,
                index=v.index,
                over=v.over,
                direction=_encode_base64(v.direction),
            )
            for v in profile.votes
        ]
        return cls(
            scorer=profile.scorer,
            revision=profile.revision,
            centre=_encode_base64(profile.centre),
            fields=profile.fields,
            votes=votes,
        )

    def to_domain(self) -> TasteProfile:
        """Convert to the domain. Raises InvalidRequest for invalid base64."""
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


@router.get("", summary="List taste profiles", responses=openapi.error_responses(503))
@router.head("", include_in_schema=False)
async def list_profiles(services: ServicesDep) -> TasteProfileListResponse:
    """The names of your profiles, sorted."""
    return TasteProfileListResponse(data=await services.taste.list_profiles(current_owner()))


@router.post(
    "/{profile}/votes",
    summary="Vote on candidates",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 404, 409, 413, 415, 422, 503),
)
async def cast_votes(
    profile: ProfilePath, body: Annotated[VotesRequest, Body(openapi_examples=_EXAMPLES)], services: ServicesDep
) -> TasteProfileResponse:
    """Creates the profile if it does not exist."""
    services = await services.models.of_generation(body.generation, "scorer")
    return TasteProfileResponse.from_domain(await services.taste.cast_votes(current_owner(), profile, body.to_domain()))


@router.get("/{profile}", summary="Read a summary of a profile", responses=openapi.error_responses(404, 422, 503))
@router.head("/{profile}", include_in_schema=False)
async def read_profile(profile: ProfilePath, services: ServicesDep) -> TasteProfileResponse:
    """The number of votes of each kind, and how consistent they are."""
    return TasteProfileResponse.from_domain(await services.taste.read_summary(current_owner(), profile))


@router.delete(
    "/{profile}", summary="Delete a profile", status_code=204, responses=openapi.error_responses(404, 422, 503)
)
async def delete_profile(profile: ProfilePath, services: ServicesDep) -> None:
    """Deletes the profile and all its votes."""
    await services.taste.delete_profile(current_owner(), profile)


@router.get("/{profile}/export", summary="Export a profile", responses=openapi.error_responses(404, 422, 503))
@router.head("/{profile}/export", include_in_schema=False)
async def export_profile(profile: ProfilePath, services: ServicesDep) -> TasteProfileDocument:
    """Returns a document that PUT accepts."""
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
    """Replaces an existing profile; refuses one of another scorer."""
    return TasteProfileResponse.from_domain(
        await services.taste.import_profile(current_owner(), profile, body.to_domain())
    )


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode_base64(text: str, pointer: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("the field must be valid base64", pointer=pointer) from None
