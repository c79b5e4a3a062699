"""POST /v1/rank: images made elsewhere, compared with a prompt: files of a form, or data URIs in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from app.api import json_body, openapi
from app.api.dependencies import Face, FaceDep, media_type, unless_gone
from app.api.problems import InvalidJson
from app.api.ranking_inputs import resolve_ranking
from app.api.schemas.requests import RankForm, RankRequest
from app.api.schemas.responses import RankOut
from app.api.uploads import Sent
from app.domain import Ranking
from app.errors import Invalid, TooLarge, UnsupportedMedia
from app.imaging import Upload

router = APIRouter(prefix="/v1", tags=["rank"])

Asked = TypeVar("Asked", bound=RankForm)

FORM = "multipart/form-data"
TEXT_FIELDS = 16
TEXT_FIELD_BYTES = 1024 * 1024
"""Most text fields of a form, and the longest one."""


@router.post(
    "/rank",
    summary="Rank images against a prompt",
    openapi_extra=openapi.body(
        ("application/json", RankRequest, openapi.RANK_REQUEST), (FORM, RankForm, openapi.RANK_FORM)
    ),
    responses=openapi.errors(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def rank(request: Request, face: FaceDep) -> RankOut:
    """No sampling. Form fields: `images` (files, repeated), `prompt`, `negative_prompt`, `ranking` (JSON)."""
    kind = media_type(request)
    if kind == FORM:
        asked, uploads = await _from_form(request, face)
    elif kind == "application/json" or kind.endswith("+json"):
        asked, uploads = await _from_json(request, face)
    else:
        raise UnsupportedMedia("the body must be multipart/form-data with files, or JSON with data URIs")
    return await unless_gone(request, _ranked(request, face, asked, uploads))


async def _ranked(request: Request, face: Face, asked: RankForm | RankRequest, uploads: Sequence[Upload]) -> RankOut:
    ranking = await resolve_ranking(request, face, asked.ranking, Ranking())
    ranking = ranking.with_negative_prompt(asked.negative_prompt or "")
    sent = [Sent(upload, f"#/images/{place}") for place, upload in enumerate(uploads)]
    async with face.uploads.reading(sent) as batches:
        return RankOut.from_domain(await face.dialogue.rank(asked.prompt, ranking, batches))


async def _from_json(request: Request, face: Face) -> tuple[RankRequest, list[Upload]]:
    asked = _checked(RankRequest, json_body.parse(await request.body()))
    _count(len(asked.images), face)
    return asked, [Upload(uri) for uri in asked.images]


async def _from_form(request: Request, face: Face) -> tuple[RankForm, list[Upload]]:
    limit = face.service.limits.images
    try:
        async with request.form(max_files=limit + 1, max_fields=TEXT_FIELDS, max_part_size=TEXT_FIELD_BYTES) as form:
            files = [f for name in ("images", "images[]") for f in form.getlist(name) if isinstance(f, UploadFile)]
            asked = _checked(RankForm, {**_fields(form), "images": [file.filename or "" for file in files]})
            _count(len(files), face)
            uploads = [Upload(await file.read(), file.content_type) for file in files]
    except HTTPException as error:  # of starlette, which tells its limits apart by words only
        if "Too many files" in error.detail:
            raise Invalid(f"more files than the limit of {limit} images", pointer="#/images") from error
        if "Too many fields" in error.detail:
            raise Invalid(f"more than {TEXT_FIELDS} text fields", pointer="#") from error
        if "exceeded maximum size" in error.detail:
            raise TooLarge(f"a text field is larger than the limit of {TEXT_FIELD_BYTES} bytes") from error
        raise
    return asked, uploads


def _fields(form: FormData) -> dict[str, Any]:
    """The text fields; `ranking` is JSON, and a field that came twice is refused."""
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name in {"images", "images[]"}:
            continue
        if name in fields or isinstance(value, UploadFile):
            raise Invalid("one text is wanted" if name in fields else "a file is not wanted here", pointer=f"#/{name}")
        fields[name] = value
    if "ranking" in fields:
        fields["ranking"] = _parsed(fields["ranking"], "#/ranking")
    return fields


def _parsed(text: str, pointer: str) -> Any:
    try:
        return json_body.parse(text.encode())
    except (InvalidJson, UnicodeError):
        raise Invalid("the field must be JSON in which no member comes twice", pointer=pointer) from None


def _checked(form: type[Asked], fields: Any) -> Asked:
    try:
        return form.model_validate(fields)
    except ValidationError as error:
        found = [{**e, "loc": ("body", *e["loc"])} for e in error.errors(include_input=False, include_url=False)]
        raise RequestValidationError(found, body=fields) from None


def _count(images: int, face: Face) -> None:
    limit = face.service.limits.images
    if images > limit:
        raise Invalid(f"more than the limit of {limit} images", pointer="#/images")
