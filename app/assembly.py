"""Builds the services of each model from stores and parts that all share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property, partial

from app.api.dependencies import Services
from app.api.upload_limits import UploadLimiter
from app.domain import Provenance
from app.engine.protocols import Engine
from app.engine.registry import ManagedEngine, ModelRegistry
from app.errors import FrontrunnerError
from app.imaging import DecoderPool
from app.imaging.provenance import TrustList
from app.metrics import Metrics
from app.service import (
    Aliases,
    AuditService,
    BatchService,
    CandidateArrays,
    CandidateImages,
    ChatRewriter,
    Embedder,
    Ensembles,
    Explainer,
    FileSealer,
    GenerationService,
    ImageGuards,
    ImageUpscaler,
    Img2ImgService,
    LeasePolicy,
    Limits,
    LinkSigner,
    ModelDemand,
    Notifier,
    Presets,
    PruningPolicy,
    RankingService,
    Receipts,
    ReferenceResolver,
    SafetyChecker,
    TasteService,
    VariantMaker,
    WebhookDispatcher,
    WebhookPolicy,
    presets,
)
from app.service.generations.event_log import QUEUE_TOPIC
from app.service.generations.queue_worker import WaitingModels
from app.service.serving import Announcement, ModelDirectory, Roster
from app.settings import ModelSettings, Settings
from app.stores.blobs import ObjectBlobStore
from app.stores.generations import SqlBatchStore, SqlGenerationStore
from app.stores.models import SqlServedModelStore
from app.stores.protocols import MODELS_TOPIC, ProfileCaps
from app.stores.taste import SqlVoteStore
from models.guards.names import installed_guards
from models.guards.text_reader import RapidOcrReader
from models.protocols.guards import TYPOGRAPHIC


@dataclass(frozen=True)
class Assembly:
    """What the services of all models share."""

    settings: Settings
    registry: ModelRegistry
    records: SqlGenerationStore
    blobs: ObjectBlobStore
    dispatcher: WebhookDispatcher
    hooks: WebhookPolicy
    decoders: DecoderPool
    rewriter: ChatRewriter | None
    safety: SafetyChecker
    sealer: FileSealer
    links: LinkSigner
    trust: TrustList

    def directory(self) -> ModelDirectory[Services]:
        """The services of every model."""
        served = self.settings.served
        own = {model.id: model.settings for model in served.models} if served is not None else {}
        names = self.registry.ids or (self.registry.default,)
        registry = self.registry
        lanes = {
            name: self._lane(registry.engine(name), registry.managed(name), own.get(name, self.settings))
            for name in names
        }
        first = lanes[self.registry.default]
        batches = BatchService(first.generations, self.records, self._batch_store, self.blobs, self.hooks)
        instruments = self.records.connections.instruments, self.blobs.instruments
        metrics = Metrics(
            self.registry,
            [(lane.generations, lane.ensembles) for lane in lanes.values()],
            self.dispatcher,
            instruments,
            lambda: self.records.notifies,
        )
        directory = ModelDirectory[Services](self.registry, self.records.get, self.roster)

        def bundle(lane: _Lane) -> Services:
            return self._services(lane, batches, metrics, directory)

        directory.fill(
            {name: bundle(lane) for name, lane in lanes.items()},
            lambda away: bundle(self._lane(away, None, self.settings)),
        )
        return directory

    @cached_property
    def roster(self) -> Roster | None:
        """What publishes several models to other replicas; None for a single one."""
        store = SqlServedModelStore(self.records)
        return Roster(self.registry, store, self.settings.lease_s) if self.registry.several else None

    async def publish_models(self) -> None:
        """Publish what this replica serves, and follow others, until cancelled."""
        if self.roster is not None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.roster.run(), name="publish")
                group.create_task(self.roster.follow(partial(self._notifier.subscribe, MODELS_TOPIC)), name="follow")
        else:
            engine, store = self.registry.engine(self.registry.default), SqlServedModelStore(self.records)
            await Announcement(engine, store, self.settings.lease_s).run()

    def _models_changed(self) -> None:
        self._notifier.notify(QUEUE_TOPIC)
        if self.roster is not None:
            self.roster.publish_soon()

    def _lane(self, engine: Engine, managed: ManagedEngine | None, settings: ModelSettings) -> _Lane:
        if managed is not None:
            managed.on_changed = self._models_changed
        ensembles = Ensembles(engine, settings.ensemble)
        guards = ImageGuards(engine, self._reader)
        process = self.settings
        generations = GenerationService(
            engine,
            self.records,
            self.blobs,
            self._limits,
            lease_policy=LeasePolicy(process.lease_s, process.attempts),
            pruning=PruningPolicy(process.pruning, process.pruning_quality, process.pruning_shadow),
            hooks=self.hooks,
            stream_grace_s=process.stream_grace_s,
            batches=self._batch_store,
            sealer=self.sealer,
            guards=guards,
            ensembles=ensembles,
            notifier=self._notifier,
            cancel_run=self.registry.cancel,
            demand=self._demand(managed) if managed is not None else None,
            safety=self.safety,
        )
        return _Lane(engine, settings, generations, ensembles, guards)

    def _demand(self, managed: ManagedEngine) -> ModelDemand:
        async def failure() -> FrontrunnerError | None:
            if managed.state != "failed":
                return None
            held = await self.roster.find(managed.name) if self.roster is not None else None
            return managed.failure if held is None else None

        has_work = partial(self._waiting_models.includes, managed.name)
        return ModelDemand(managed.name, managed.ask_for_load, failure, has_work)

    @cached_property
    def _waiting_models(self) -> WaitingModels:
        return WaitingModels(self.records, self._notifier, self.settings.lease_s)

    def _services(
        self, lane: _Lane, batches: BatchService, metrics: Metrics, directory: ModelDirectory[Services]
    ) -> Services:
        engine, records, blobs, limits, service = lane.engine, self.records, self.blobs, self._limits, lane.generations
        fields, images = CandidateArrays(engine, blobs), CandidateImages(engine, records, blobs, limits, self.safety)
        ensembles, guards = lane.ensembles, lane.guards
        return Services(
            service,
            RankingService(
                engine, records, blobs, fields, limits, service.get, self.sealer, guards, ensembles, self.safety
            ),
            ReferenceResolver(engine, fields, limits, service.get),
            Img2ImgService(engine, fields, images, blobs, limits),
            TasteService(engine, self._votes, fields, service.get),
            Explainer(engine, images, fields, self._presets, limits),
            metrics,
            self._uploads,
            Embedder(engine, limits),
            self._aliases,
            self.links,
            batches,
            lane.settings.lora_folder,
            self._variants,
            self.trust,
            Receipts(service.get, blobs, self.sealer.pair),
            lane.ensembles,
            ImageUpscaler(engine),
            AuditService(engine, service, fields, images),
            directory,
        )

    # parts that are made once

    @cached_property
    def _limits(self) -> Limits:
        settings = self.settings
        return Limits(
            candidates=settings.max_candidates,
            default_candidates=settings.default_candidates,
            steps=settings.max_steps,
            prompt_chars=settings.max_prompt_chars,
            images=settings.max_images,
            stream_s=settings.stream_s,
            retry_window_s=settings.retry_window_s,
            provenance=Provenance(settings.provenance),
            guards=settings.guard_names,
            installed_guards=installed_guards(),
            spread_styles=settings.spread_styles,
        )

    @cached_property
    def _reader(self) -> RapidOcrReader | None:
        return RapidOcrReader() if TYPOGRAPHIC in self._limits.installed_guards else None

    @cached_property
    def _notifier(self) -> Notifier:
        return Notifier()

    @cached_property
    def _batch_store(self) -> SqlBatchStore:
        return SqlBatchStore(self.records)

    @cached_property
    def _votes(self) -> SqlVoteStore:
        caps = ProfileCaps(self.settings.max_profiles, self.settings.max_profiles_mib * 2**20)
        return SqlVoteStore(self.records.connections, caps)

    @cached_property
    def _presets(self) -> Presets:
        return Presets.read(self.settings.presets or presets.DEFAULT_PRESETS_PATH)

    @cached_property
    def _uploads(self) -> UploadLimiter:
        return UploadLimiter(self.decoders, self.settings.max_image_pixels, self.settings.max_total_pixels)

    @cached_property
    def _aliases(self) -> Aliases:
        return Aliases.parse(self.settings.model_aliases)

    @cached_property
    def _variants(self) -> VariantMaker:
        return VariantMaker(self._presets, self.rewriter, self.settings.max_prompt_chars)


@dataclass(frozen=True, slots=True)
class _Lane:
    """What one model has of its own."""

    engine: Engine
    settings: ModelSettings
    generations: GenerationService
    ensembles: Ensembles
    guards: ImageGuards
