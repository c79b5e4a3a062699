"""POST /v1/rank: rank uploaded images, as form files or as data URIs in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from app.api import json_body, openapi
from app.api.dependencies import Services, ServicesDep, media_type, unless_gone
from app.api.problems import InvalidJson
from app.api.ranking_inputs import resolve_ranking
from app.api.schemas.requests import RankForm, RankRequest
from app.api.schemas.responses import RankResponse
from app.api.upload_limits import Sent
from app.domain import Ranking
from app.errors import InvalidRequest, TooLarge, UnsupportedMedia
from app.imaging import Upload

router = APIRouter(prefix="/v1", tags=["rank"])

FormT = TypeVar("FormT", bound=RankForm)

FORM_MEDIA_TYPE = "multipart/form-data"
MAX_TEXT_FIELDS = 16
MAX_TEXT_FIELD_BYTES = 1024 * 1024
"""Maximum number of text fields in a form, and maximum bytes of each."""


@router.post(
    "/rank",
    summary="Rank images against a prompt",
    openapi_extra=openapi.request_body(
        ("application/json", RankRequest, openapi.RANK_REQUEST), (FORM_MEDIA_TYPE, RankForm, openapi.RANK_FORM)
    ),
    responses=openapi.error_responses(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def rank_images(request: Request, services: ServicesDep) -> RankResponse:
    """Ranks without sampling.

    Form fields: `images` (files, repeated), `prompt`, `negative_prompt`, `ranking` (JSON).
    """
    kind = media_type(request)
    if kind == FORM_MEDIA_TYPE:
        body, uploads = await _from_form(request, services)
    elif kind == "application/json" or kind.endswith("+json"):
        body, uploads = await _from_json(request, services)
    else:
        raise UnsupportedMedia(
            "set `Content-Type` to multipart/form-data with files, or to application/json with data URIs"
        )
    return await unless_gone(request, _rank(request, services, body, uploads))


async def _rank(
    request: Request, services: Services, body: RankForm | RankRequest, uploads: Sequence[Upload]
) -> RankResponse:
    ranking = await resolve_ranking(request, services, body.ranking, Ranking())
    ranking = ranking.with_negative_prompt(body.negative_prompt or "")
    sent = [Sent(upload, f"#/images/{place}") for place, upload in enumerate(uploads)]
    async with services.uploads.reader(sent) as batches:
        return RankResponse.from_domain(await services.ranking.rank(body.prompt, ranking, batches))


async def _from_json(request: Request, services: Services) -> tuple[RankRequest, list[Upload]]:
    body = _validate(RankRequest, json_body.parse(await request.body()))
    _check_image_count(len(body.images), services)
    return body, [Upload(uri) for uri in body.images]


async def _from_form(request: Request, services: Services) -> tuple[RankForm, list[Upload]]:
    limit = services.generations.limits.images
    try:
        async with request.form(
            max_files=limit + 1, max_fields=MAX_TEXT_FIELDS, max_part_size=MAX_TEXT_FIELD_BYTES
        ) as form:
            files = [f for name in ("images", "images[]") for f in form.getlist(name) if isinstance(f, UploadFile)]
            body = _validate(RankForm, {**_text_fields(form), "images": [file.filename or "" for file in files]})
            _check_image_count(len(files), services)
            uploads = [Upload(await file.read(), file.content_type) for file in files]
    except HTTPException as error:  # Starlette distinguishes its limits only by message
        if "Too many files" in error.detail:
            raise InvalidRequest(
                f"`images` has more files than the limit of {limit}: send fewer", pointer="#/images"
            ) from error
        if "Too many fields" in error.detail:
            raise InvalidRequest(
                f"the form has more than {MAX_TEXT_FIELDS} text fields: send fewer", pointer="#"
            ) from error
        if "exceeded maximum size" in error.detail:
            raise TooLarge(
                f"a text field exceeds the limit of {MAX_TEXT_FIELD_BYTES} bytes: send a shorter one"
            ) from error
        raise
    return body, uploads


def _text_fields(form: FormData) -> dict[str, Any]:
    """The text fields of a form, with `ranking` parsed from JSON.

    Raises InvalidRequest for a repeated field, and for a file outside `images`.
    """
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name in {"images", "images[]"}:
            continue
        if name in fields or isinstance(value, UploadFile):
            raise InvalidRequest(
                "the field is repeated: send it once" if name in fields else "the field must be text, not a file",
                pointer=f"#/{name}",
            )
        fields[name] = value
    if "ranking" in fields:
        fields["ranking"] = _parse_json(fields["ranking"], "#/ranking")
    return fields


def _parse_json(text: str, pointer: str) -> Any:
    try:
        return json_body.parse(text.encode())
    except (InvalidJson, UnicodeError):
        raise InvalidRequest("the field must be valid JSON without repeated members", pointer=pointer) from None


def _validate(form: type[FormT], fields: Any) -> FormT:
    try:
        return form.model_validate(fields)
    except ValidationError as error:
        found = [{**e, "loc": ("body", *e["loc"])} for e in error.errors(include_input=False, include_url=False)]
        raise RequestValidationError(found, body=fields) from None


def _check_image_count(images: int, services: Services) -> None:
    limit = services.generations.limits.images
    if images > limit:
        raise InvalidRequest(f"{images} images exceed the limit of {limit}: send fewer", pointer="#/images")
