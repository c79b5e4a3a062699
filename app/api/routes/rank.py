"""POST /v1/rank: rank uploaded images, as form files or as data URIs in JSON."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request

from app.api import json_body, openapi
from app.api.dependencies import Services, ServicesDep, media_type, unless_gone
from app.api.forms import FORM_MEDIA_TYPE, checked, form
from app.api.ranking_inputs import resolve_ranking
from app.api.schemas.ranking.rank_responses import RankResponse
from app.api.schemas.requests import RankForm, RankRequest
from app.api.upload_limits import Pixels, Sent
from app.domain import Ranking
from app.errors import FrontrunnerError, InvalidRequest, NotFound, UnsupportedMedia
from app.imaging import Upload

router = APIRouter(prefix="/v1", tags=["rank"])


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

    Form fields: `images` (files, repeated), `prompt`, `negative_prompt`, `ranking` (JSON), `on_error`.
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
    services = await _named_model(services, body.model)
    ranking = await resolve_ranking(request, services, body.ranking, Ranking())
    ranking = ranking.with_negative_prompt(body.negative_prompt or "")
    sent = [Sent(upload, f"#/images/{place}") for place, upload in enumerate(uploads)]
    skipped: dict[int, FrontrunnerError] = {}
    async with services.uploads.reader(sent, skipped if body.on_error == "skip" else None) as batches:

        async def image_at(place: int) -> Pixels:
            kept = [each for each in range(len(sent)) if each not in skipped]
            return await services.uploads.decode_again(sent[kept[place]])

        return RankResponse.from_domain(await services.ranking.rank(body.prompt, ranking, batches, image_at), skipped)


async def _from_json(request: Request, services: Services) -> tuple[RankRequest, list[Upload]]:
    body = checked(RankRequest, json_body.parse(await json_body.read(request)))
    _check_image_count(len(body.images), services)
    return body, [Upload(uri) for uri in body.images]


async def _from_form(request: Request, services: Services) -> tuple[RankForm, list[Upload]]:
    async with form(request, ["images"], services.generations.limits.images) as sent:
        body = checked(RankForm, sent.fields(objects=["ranking"]))
        _check_image_count(len(body.images), services)
        return body, await sent.uploads("images")


async def _named_model(services: Services, model: str | None) -> Services:
    """The services of a model, which a single one's main scorer may name too.

    Raises InvalidRequest for a scorer that another field names, NotFound, Loading and the errors of
    `Services.of_model`.
    """
    try:
        found = await services.of_model(model)
        generator, scorer = found.generations.models()
        if not services.models.several and model not in (None, generator.id, scorer.id):
            raise NotFound(f"no model is named {model!r}: use {generator.id!r}", pointer="#/model")
    except NotFound:
        _refuse_scorer(services, model)
        raise
    return found


def _refuse_scorer(services: Services, model: str | None) -> None:
    """Say how a scorer ranks that belongs to a model. Raises InvalidRequest."""
    for name, each in services.models.panels():
        if each.info.id != model:
            continue
        owner = name or services.generations.models()[0].id
        use = f"send `model` {owner!r}"
        if each.role == "member":
            use += f' or omit it, and name the scorer in `ranking.scorers`: [{{"name": "{model}"}}]'
        role = {"main": "the main scorer", "member": "a further scorer", "referee": "the referee, which never ranks,"}
        raise InvalidRequest(f"{model!r} is {role[each.role]} of the model {owner!r}: {use}", pointer="#/model")


def _check_image_count(images: int, services: Services) -> None:
    limit = services.generations.limits.images
    if images > limit:
        raise InvalidRequest(f"{images} images exceed the limit of {limit}: send fewer", pointer="#/images")
