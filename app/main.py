"""Composition root: builds the service; the only module that imports every part.

`create_app` builds the app; its lifespan starts and drains it. The models load on the engine's thread. So the server
responds immediately, and /readyz reports when they are loaded. That thread imports torch; this module never does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app import __version__
from app.api import openapi, problems
from app.api.compat import embeddings, openai, openai_edits
from app.api.compat import rerank as rerank_documents
from app.api.compat.a1111 import catalog, extras, generate, state
from app.api.compat.a1111.jobs import Jobs
from app.api.compat.mcp.endpoint import McpEndpoint
from app.api.compat.mcp.in_process import Loopback
from app.api.dependencies import KnownQuery
from app.api.hosts import Hosts
from app.api.middleware.admission import Admission
from app.api.middleware.auth import ApiKeyMiddleware
from app.api.middleware.cors import NamedOrigins
from app.api.middleware.forwarded import ForwardedMiddleware
from app.api.middleware.http import AccessLogMiddleware, BodyLimitMiddleware
from app.api.routes import batches as batch_routes
from app.api.routes import explain, generations, health, listing, models, rank, refine, rerank, studio, taste, verify
from app.api.routes.trust import audits, receipts
from app.assembly import Assembly
from app.domain import Provenance, Safety
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.registry import ModelRegistry
from app.engine.warmup import Progress
from app.errors import SafetyUnavailable, StoreUnavailable
from app.imaging import DecoderPool
from app.imaging.provenance import SigningPair, TrustList
from app.logs import telemetry
from app.model_loading import WARMUP_S, ModelShelf, load_served, make_engine
from app.service import (
    Aliases,
    ApiKeyAuthenticator,
    BatchService,
    ChatRewriter,
    FileSealer,
    GenerationService,
    LinkSigner,
    SafetyChecker,
    SafetySettings,
    WebhookClient,
    WebhookDispatcher,
    WebhookPolicy,
)
from app.settings import Settings
from app.stores.api_keys import SqlApiKeyStore
from app.stores.blobs import ObjectBlobStore
from app.stores.generations import SqlGenerationStore
from app.stores.privacy import private_folder
from app.stores.webhooks import SqlWebhookOutbox
from models.errors import ModelNotFound
from models.guards.safety import check_classifier, load_classifier
from models.protocols import Models, embeds
from models.protocols.safety import SafetyClassifier

log = logging.getLogger(__name__)

MIB = 2**20

WITHDRAWAL_S = 5.0
"""Maximum seconds that background tasks have to end, such as to withdraw models."""

_NATIVE = (generations, listing, batch_routes, rerank, refine, taste, explain, rank, verify, receipts, audits)
"""Modules whose routes refuse unknown query parameters."""

_COMPAT = (openai, openai_edits, embeddings, rerank_documents, generate, state, catalog, extras)

OnDeath = Callable[[BaseException], None]


def create_app(
    settings: Settings, engine: LocalEngine | ModelRegistry | None = None, on_death: OnDeath | None = None
) -> FastAPI:
    """Build the service as an ASGI app.

    The app starts and closes `engine`; None loads the models of the settings. `on_death` is called with the reason
    when an engine dies and should end the process. Without it /readyz stays 503. Raises CertificateError and
    ModelNotFound.
    """
    safety = _safety(settings)
    engine = engine or _registry(settings, safety, on_death or _log_engine_death)
    registry = engine if isinstance(engine, ModelRegistry) else ModelRegistry.of_one(engine)
    app = FastAPIOffline(
        redoc_url=None,
        title="Frontrunner",
        summary="Generate many, keep the best.",
        description=openapi.DESCRIPTION,
        version=__version__,
        lifespan=_lifespan(settings, registry, safety, *_signing(settings)),
        redirect_slashes=False,
        telemetry=telemetry(on=settings.telemetry),
    )
    app.state.engine = engine
    app.state.registry = registry
    app.state.drain_s = settings.drain_s
    app.state.startup_error = None
    app.state.a1111_jobs = Jobs()
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_mib * MIB,
        total_bytes=settings.max_bodies_mib * MIB,
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(ApiKeyMiddleware)
    app.add_middleware(Loopback, state=app.state)
    app.state.hosts = Hosts(settings.hosts, settings.public_url)
    app.add_middleware(Admission, hosts=app.state.hosts)
    app.add_middleware(NamedOrigins, origins=settings.origins)
    app.add_middleware(
        ForwardedMiddleware, proxies=settings.proxies, prefix=settings.prefix, fixed=bool(settings.public_url)
    )
    app.add_middleware(AccessLogMiddleware)
    for part in _NATIVE:
        app.include_router(part.router, dependencies=[KnownQuery], responses=openapi.error_responses(422))
    for part in (*_COMPAT, models, health, studio):
        app.include_router(part.router)
    app.include_router(catalog.ping)
    app.state.mcp = McpEndpoint(settings.mcp, app.state.hosts, settings.origins, settings.max_body_mib * MIB)
    app.router.routes.append(app.state.mcp.route())
    problems.install_error_handlers(app)
    openapi.install_openapi(app)
    return app


def _signing(settings: Settings) -> tuple[FileSealer, TrustList]:
    """What signs and verifies files. Raises CertificateError."""
    pair = SigningPair.configured(
        settings.c2pa_certificate, settings.c2pa_key, required=Provenance(settings.provenance) is Provenance.C2PA
    )
    return FileSealer(pair), TrustList.configured(settings.c2pa_trust, pair)


def _safety(settings: Settings) -> SafetyChecker:
    """What classifies images.

    Raises ModelNotFound if it is required and cannot be loaded.
    """
    name, default = settings.safety_classifier, Safety(settings.safety)
    load: Callable[[], SafetyClassifier] | None = partial(load_classifier, name, settings.safety_threshold)
    try:
        check_classifier(name)
    except ModelNotFound as error:
        if default is not Safety.OFF and not settings.safety_optional:
            raise
        log.log(logging.INFO if default is Safety.OFF else logging.WARNING, "safety is not available: %s", error)
        load, default = None, Safety.OFF
    return SafetyChecker(SafetySettings(name, load, default, settings.word_list))


def _lifespan(
    settings: Settings, registry: ModelRegistry, safety: SafetyChecker, sealer: FileSealer, trust: TrustList
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        records, blobs = await _stores(app, settings)
        try:
            keys = SqlApiKeyStore(records.connections)
            hooks = WebhookPolicy(settings.webhook_secret, settings.webhook_private)
            webhook_client = WebhookClient(allow_private=settings.webhook_private)
            rewriter = _rewriter(settings)
            app.state.links = links = LinkSigner(keys, settings.signing_keys, settings.link_s, records.clock)
            outbox = SqlWebhookOutbox(records.connections)
            dispatcher = WebhookDispatcher(
                outbox, keys, webhook_client, hooks, records.clock, links=links, public_url=settings.public_url
            )
            decoders = DecoderPool(settings.decoders, settings.decode_timeout_s, settings.decode_memory_mib)
            app.state.authenticator = ApiKeyAuthenticator(keys, records.clock)
            assembly = Assembly(
                settings, registry, records, blobs, dispatcher, hooks, decoders, rewriter, safety, sealer, links, trust
            )
            directory = assembly.directory()
            app.state.services = services = directory.default
            registry.start()
            upkeep = [
                asyncio.create_task(_purge_repeatedly(services.generations, services.batches, settings), name="sweep"),
                asyncio.create_task(services.generations.run_worker(), name="work"),
                *(asyncio.create_task(each.generations.claim_queued(), name="claim") for each in directory.others),
                asyncio.create_task(assembly.publish_models(), name="roster"),
                asyncio.create_task(dispatcher.run(), name="webhooks"),
                asyncio.create_task(app.state.mcp.run(), name="mcp"),
            ]
            try:
                yield
            finally:
                for task in upkeep:
                    task.cancel()
                await decoders.close()
                await registry.wait_drained(app.state.drain_s)
                for each in directory.bundles.values():
                    await each.generations.release_claims()
                await registry.close(0)
                for each in directory.bundles.values():
                    await each.generations.close()
                await webhook_client.close()
                if rewriter is not None:
                    await rewriter.close()
                await asyncio.wait(upkeep, timeout=WITHDRAWAL_S)
        finally:
            await records.close()

    return lifespan


async def _stores(app: FastAPI, settings: Settings) -> tuple[SqlGenerationStore, ObjectBlobStore]:
    """Open both stores, or keep the reason in the app's state and raise."""
    try:
        return await _open_stores(settings)
    except StoreUnavailable as error:
        app.state.startup_error = error.detail
        raise
    except Exception as error:
        app.state.startup_error = (
            f"the stores cannot be opened ({type(error).__name__}: {error}): check database_url and blob_url"
        )
        raise


async def _open_stores(settings: Settings) -> tuple[SqlGenerationStore, ObjectBlobStore]:
    """Open both stores. Raises StoreUnavailable."""
    try:
        private_folder(settings.data_dir)
    except OSError as error:
        raise StoreUnavailable("data_dir cannot be created or written: check its path and permissions") from error
    blobs = ObjectBlobStore.open(settings.blobs)
    return await SqlGenerationStore.open(settings.database, options=settings.database_options), blobs


def _rewriter(settings: Settings) -> ChatRewriter | None:
    if not settings.rewriter_url:
        return None
    client = WebhookClient(allow_private=settings.rewriter_private, timeout_s=settings.rewriter_timeout_s)
    return ChatRewriter(
        client, settings.rewriter_url, settings.rewriter_model, settings.rewriter_key, settings.rewriter_calls
    )


def _registry(settings: Settings, safety: SafetyChecker, on_death: OnDeath) -> ModelRegistry:
    """The engines of the process; no model loads yet.

    Beside several models the safety classifier loads at once, if it is the default. Raises ModelNotFound.
    """
    config = EngineConfig(capacity=settings.max_queued_candidates)
    served = settings.served
    if served is None:
        load = partial(_load_all, safety)
        return ModelRegistry.of_one(make_engine(settings, load, config, on_death, attempts=settings.attempts))
    _preload(safety, settings)
    budget = settings.model_memory_mib * MIB
    shelf = ModelShelf(replace(config, warmup_s=WARMUP_S), budget, on_death, settings.attempts)
    return ModelRegistry({model.id: shelf.engine(model) for model in served.models}, served.default)


def _load_all(safety: SafetyChecker, settings: Settings, progress: Progress) -> Models:
    """Load the models, and the safety classifier if requests use it by default."""
    loaded = _load_models(settings, progress)
    if safety.default is not Safety.OFF:
        progress("loading the safety classifier")
    _preload(safety, settings)
    return loaded


def _preload(safety: SafetyChecker, settings: Settings) -> None:
    """Load the classifier if it is the default. Raises ModelNotFound."""
    try:
        if safety.default is not Safety.OFF:
            safety.preload()
    except SafetyUnavailable as error:
        if not settings.safety_optional:
            raise ModelNotFound(error.detail) from error
        log.warning("safety is off: %s", error.detail)
        safety.turn_off()


def _load_models(settings: Settings, progress: Progress) -> Models:
    """Load the configured models; runs on an engine's thread."""
    loaded = load_served(settings, progress)
    names = loaded.generator.info.id, loaded.scorer.info.id, *(each.info.id for each in loaded.members if embeds(each))
    if dangling := Aliases.parse(settings.model_aliases).dangling(names):
        raise ModelNotFound(
            f"FRONTRUNNER_MODEL_ALIASES: {', '.join(dangling)} names a model that is not loaded; "
            f"use one of {', '.join(dict.fromkeys(names))}, or * for the loaded one"
        )
    return loaded


def _log_engine_death(reason: BaseException) -> None:
    log.critical("the engine died: %s", reason)


async def _purge_repeatedly(service: GenerationService, batches: BatchService, settings: Settings) -> None:
    """Purge expired generations and recover lost ones periodically, until cancelled."""
    while True:
        try:
            await service.purge_expired(settings.retention_s)
            await batches.purge_expired(settings.retention_s)
        except StoreUnavailable:
            log.warning("expired data was not purged: the store is unavailable")
        await asyncio.sleep(settings.sweep_s)
