"""Dependencies of routes: services, id and JSON checks, waiting for results."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from email.message import Message
from typing import Annotated, Any, TypeAlias, TypeVar

import anyio
from fastapi import Depends, Header, Path, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query
from pydantic import BaseModel

from app.api import openapi
from app.api.problems import ClientDisconnected
from app.api.schemas.base import Index
from app.api.schemas.messages import described
from app.api.upload_limits import UploadLimiter
from app.domain import Generation, Status
from app.errors import NotFound, NotReady, UnsupportedMedia, stored_error
from app.imaging import Upload
from app.imaging.provenance import TrustList
from app.metrics import Metrics
from app.service import (
    Aliases,
    AuditService,
    BatchService,
    Embedder,
    Ensembles,
    Explainer,
    GenerationService,
    IdempotencyKey,
    ImageUpscaler,
    Img2ImgService,
    LinkSigner,
    LoadedModels,
    RankingService,
    Receipts,
    ReferenceResolver,
    TasteService,
    VariantMaker,
)
from app.service.serving import ModelDirectory, Needs
from models.loras import LoraFolder

T = TypeVar("T")

ATTEMPT_HEADER = "x-stainless-retry-count"
"""Number of earlier attempts of the same request, as OpenAI's clients send it."""

MAX_NAME_CHARS = 64
"""Maximum characters of an unknown name that an error repeats."""

_TRACKING = re.compile(r"utm_\w+|fbclid|gclid|msclkid|yclid|_")
"""Query parameters that sites, mailers and scripts add to links that they show."""

_ID = re.compile(r"gen_[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True, slots=True)
class Services:
    """The services that routes use, at `app.state.services`."""

    generations: GenerationService
    ranking: RankingService
    references: ReferenceResolver
    img2img: Img2ImgService
    taste: TasteService
    explainer: Explainer
    metrics: Metrics
    uploads: UploadLimiter
    embedder: Embedder
    aliases: Aliases
    links: LinkSigner
    batches: BatchService
    loras: LoraFolder | None
    variants: VariantMaker
    trust: TrustList
    receipts: Receipts
    ensembles: Ensembles
    upscaling: ImageUpscaler
    audits: AuditService
    models: ModelDirectory[Services]

    async def of_model(self, model: str | None, since: float | None = None) -> Services:
        """The services of the model that a request names; None is the default one.

        For `since` and errors see `ModelDirectory.named`.
        """
        return await self.models.named(model, since)


async def get_services(request: Request) -> Services:
    """The services that can rank the generation in the path; else the default ones."""
    return await _services_of(request, "scorer")


async def _generator_services(request: Request) -> Services:
    return await _services_of(request, "generator")


async def _services_of(request: Request, needs: Needs) -> Services:
    services: Services = request.app.state.services
    generation_id = request.path_params.get("generation_id")
    if not services.models.several or generation_id is None:
        return services
    return await services.models.of_generation(generation_id, needs)


def loaded_models(services: Services) -> LoadedModels:
    """Ids of the models that requests can name. Raises Loading."""
    if services.models.several:
        scorers = tuple(scorer.id for _, scorer in services.models.embedders())
        names = services.models.ids
        return LoadedModels(names[0], scorers[0] if scorers else names[0], names[1:], scorers[1:])
    generator, scorer = services.generations.models()
    return LoadedModels(generator.id, scorer.id, (), tuple(services.ensembles.embedders))


async def for_generator(services: Services, name: str | None, since: float | None = None) -> Services:
    """The services of the generator that a route of another API names.

    Raises the errors of `Aliases.generator` and `Services.of_model`.
    """
    if not services.models.several:
        return services
    return await services.of_model(services.aliases.generator(name, loaded_models(services))[0], since)


async def _generation_service(request: Request) -> GenerationService:
    return (await _services_of(request, "record")).generations


async def _generation_id(
    generation_id: Annotated[
        str, Path(description="Id in the response to POST.", examples=[openapi.EXAMPLE_GENERATION_ID])
    ],
) -> str:
    if not _ID.fullmatch(generation_id):
        raise NotFound("no generation has this id: an id is `gen_` and 26 Crockford base32 characters")
    return generation_id


def media_type(request: Request) -> str:
    """The body's media type in lower case, without parameters; "" if absent."""
    sent = request.headers.get("content-type", "")
    if sent in ("", "application/json"):  # nearly always: the parser takes as long as all other checks
        return sent
    header = Message()
    header["content-type"] = sent
    return header.get_content_type()


async def json_body(request: Request) -> None:
    """Refuse a body without a JSON media type. Raises UnsupportedMedia."""
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMedia("the body must be JSON: send the header 'Content-Type: application/json'")


async def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not declare.

    Links to images may have those that sites add to links. Raises RequestValidationError with the accepted names.
    """
    if not request.query_params:
        return
    declared = get_flat_params(request.scope["route"].dependant)
    accepted = [field.alias for field in declared if isinstance(field.field_info, Query)]
    link = "/images/" in request.scope["route"].path_format
    names = [name for name in request.query_params if not (link and _TRACKING.fullmatch(name))]
    if unknown := [name for name in names if name not in accepted]:
        use = f"use {', '.join(f'`{name}`' for name in accepted)}" if accepted else "this route takes none"
        problem = {"type": "unknown_parameter", "msg": f"the query parameter is unknown: remove it; {use}"}
        raise RequestValidationError([{**problem, "loc": ("query", name[:MAX_NAME_CHARS])} for name in unknown])


ServicesDep: TypeAlias = Annotated[Services, Depends(get_services)]
GeneratorServicesDep: TypeAlias = Annotated[Services, Depends(_generator_services)]
"""The services of the model that made the generation in the path."""
GenerationServiceDep: TypeAlias = Annotated[GenerationService, Depends(_generation_service)]
GenerationId: TypeAlias = Annotated[str, Depends(_generation_id)]
CandidateIndex: TypeAlias = Annotated[Index, Path(description="Index of the candidate, 0 to N-1.")]
JsonBody = Depends(json_body)
KnownQuery = Depends(known_query)


IdempotencyKeyHeader: TypeAlias = Annotated[
    str | None,
    Header(
        pattern=described(
            r'^("[\x21\x23-\x5b\x5d-\x7e]{1,255}"|[\x21\x23-\x7e]{1,255})$',
            "1 to 255 visible ASCII characters, quoted or bare",
        ),
        description="A repeat with this key and body returns the first generation, on any replica. Quoted or bare.",
    ),
]


def build_idempotency_key(
    key: str | None, path: str, body: BaseModel, files: Sequence[Upload] = ()
) -> IdempotencyKey | None:
    """The key with a hash of the path, of the fields that were set, and of the files.

    None without a key.
    """
    if key is None:
        return None
    digest = hashlib.sha256(f"{path} {body.model_dump_json(exclude_unset=True)}".encode())
    for file in files:
        digest.update(hashlib.sha256(file.data if isinstance(file.data, bytes) else file.data.encode()).digest())
    return IdempotencyKey(key.strip('"'), digest.hexdigest())


def build_retry_key(
    request: Request, window_s: float, path: str, body: BaseModel, files: Sequence[Upload] = ()
) -> IdempotencyKey | None:
    """A key by which a retry of an OpenAI client continues its first request.

    These clients number their attempts in a header. None for other clients, and with a window of 0.
    """
    attempt = request.headers.get(ATTEMPT_HEADER, "")
    key = build_idempotency_key("retry", path, body, files) if window_s and attempt.isdecimal() else None
    return (
        replace(key, key=f"retry {key.fingerprint}", window_s=window_s, retry=attempt.strip("0") != "") if key else None
    )


async def wait_for_result(
    request: Request,
    service: GenerationService,
    generation_id: str,
    *,
    keep: bool = False,
    attended: bool = False,
) -> Generation:
    """Wait until the generation has succeeded, and return it.

    Raises as `wait_for_end`; also the generation's own error, or NotReady when it was cancelled.
    """
    return require_succeeded(await wait_for_end(request, service, generation_id, keep=keep, attended=attended))


async def wait_for_end(
    request: Request,
    service: GenerationService,
    generation_id: str,
    *,
    keep: bool = False,
    attended: bool = False,
) -> Generation:
    """Wait until the generation has ended, and return it.

    Unless `keep` is set, a disconnect of the client cancels it. For `attended`, see `GenerationService.wait`, whose
    errors it raises, and ClientDisconnected.
    """
    waiting = asyncio.create_task(service.wait(generation_id, attended=attended))
    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({waiting, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnected
        return waiting.result()
    finally:
        disconnected.cancel()
        if not waiting.done():
            waiting.cancel()
            if not keep:
                with anyio.CancelScope(shield=True):
                    await service.cancel_on_disconnect(generation_id)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` and return its result; a disconnect of the client cancels it.

    The body must have been read. Raises ClientDisconnected, and the errors of `work`.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working})


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def require_succeeded(generation: Generation) -> Generation:
    """The generation, if it succeeded. Raises its own error, or NotReady."""
    if generation.failure is not None:
        raise stored_error(generation.failure.code, generation.failure.detail)
    if generation.status is not Status.SUCCEEDED:
        raise NotReady(f"the generation is {generation.status} and has no result: submit it again")
    return generation
