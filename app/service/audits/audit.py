"""The audit: make or read generations, ask the probe, and count.

Generations that an audit makes are ordinary ones of the caller, without pruning. So an audit is repeated with other
attributes over its `generations`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain import SEED_LIMIT, Generation, Notice, Status
from app.engine.audits.findings import Attribute, AttributeFinding, AuditedField, classify, find
from app.engine.notices import truncation_notice, unrecognised
from app.engine.protocols import Engine
from app.engine.texts.readings import reading_notices
from app.errors import EngineFailed, FrontrunnerError, ImageWithheld, InvalidRequest, NotReady, stored_error
from app.service.audits.notices import limits_of, losses
from app.service.audits.probe import Probe, choose_probe
from app.service.candidates.arrays import CandidateArrays
from app.service.candidates.images import CandidateImages
from app.service.generations.service import GenerationService
from app.service.types import GenerationParams
from app.service.validation import check_range, check_text
from models.protocols import Embeddings

MAX_GENERATIONS = 256
"""Maximum generations of an audit, made or read."""

MAX_CANDIDATES = 4096
"""Maximum candidates of an audit."""

MAX_WINNERS = 1023
"""Maximum winners of a stored generation; one candidate at least does not win."""

MAX_ATTRIBUTES = 16
"""Maximum attributes, and maximum values of one."""

AT_ONCE = 4
"""Generations of an audit that are submitted at a time.

So other requests get their share.
"""

SEEN_AT_ONCE = 64
"""Images that are read for the probe at a time, which bounds memory."""


@dataclass(frozen=True, slots=True)
class AuditParams:
    """What to audit: `prompts` to sample, or stored `generations`.

    One of both is empty. `base` are the parameters of made generations, except their prompts; its `n_candidates` is a
    number. Candidates up to rank `winners` win; None is every returned one. `certainty` is the least share of the
    likeliest value, from 0.5 to 1. `probe` None chooses one. `force` admits a probe that ranks.
    """

    attributes: tuple[Attribute, ...]
    prompts: tuple[str, ...] = ()
    generations: tuple[str, ...] = ()
    base: GenerationParams = GenerationParams("", n_candidates=16)
    winners: int | None = None
    probe: str | None = None
    certainty: float = 0.75
    force: bool = False


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    `probe_ranks`: the probe took part in the ranking that it judges.
    """

    probe: str
    probe_revision: str
    probe_ranks: bool
    generations: tuple[str, ...]
    candidates: int
    winners: int
    findings: tuple[AttributeFinding, ...]
    warnings: tuple[Notice, ...]


class AuditService:
    """See the module. Use in one event loop."""

    def __init__(
        self,
        engine: Engine,
        service: GenerationService,
        arrays: CandidateArrays,
        images: CandidateImages,
    ) -> None:
        self._engine = engine
        self._service = service
        self._arrays = arrays
        self._images = images

    async def run(self, params: AuditParams) -> AuditReport:
        """Audit. Cancelling it cancels what it made.

        Raises InvalidRequest, ProbeRanks, NotFound for another owner's generations, NotReady, and the errors of
        `GenerationService.submit`.
        """
        self._check(params)
        sources = [await self._stored(place, each) for place, each in enumerate(params.generations)]
        probe = choose_probe(self._engine, params.probe, sources, params.base.ranking, force=params.force)
        texts, notices = await self._texts(params.attributes, probe)
        lost = list[Generation]()
        if params.prompts:
            sources = await self._made(params, lost)
        self._check_total(sum(len(source.candidates) for source in sources), "#/generations")
        fields = list[AuditedField]()
        for source in sources:
            fields.append(await self._field(source, texts, probe, params))
        findings = await asyncio.to_thread(find, params.attributes, fields)
        return AuditReport(
            probe.info.id,
            probe.info.revision,
            probe.ranks,
            tuple(source.id for source in sources),
            sum(len(field.won) for field in fields),
            int(sum(field.won.sum() for field in fields)),
            tuple(findings),
            (*limits_of(probe, sources, fields, findings), *losses(lost), *notices),
        )

    def _check(self, params: AuditParams) -> None:
        limits = self._service.limits
        if bool(params.prompts) == bool(params.generations):
            raise InvalidRequest("send one of `prompt`, `prompts` and `generations`", pointer="#/prompts")
        for name in ("prompts", "generations"):
            if len(getattr(params, name)) > MAX_GENERATIONS:
                raise InvalidRequest(
                    f"{len(getattr(params, name))} {name} were sent; send at most {MAX_GENERATIONS}",
                    pointer=f"#/{name}",
                )
        if len(set(params.generations)) < len(params.generations):
            raise InvalidRequest("a generation is named twice: name each once", pointer="#/generations")
        for place, prompt in enumerate(params.prompts):
            check_text(prompt, f"#/prompts/{place}", limits, allow_empty=False)
        check_range(params.certainty, 0.5, 1, "#/certainty")
        self._check_attributes(params.attributes)
        self._check_numbers(params)

    def _check_numbers(self, params: AuditParams) -> None:
        """Check also those that stored generations do not need, except a default."""
        limits, base = self._service.limits, params.base
        count = base.n_candidates
        assert isinstance(count, int)
        if params.prompts or count != limits.default_candidates:
            check_range(count, 2, limits.candidates, "#/n_candidates")
        if base.steps is not None:
            check_range(base.steps, 1, limits.steps, "#/steps")
        if base.guidance_scale is not None:
            check_range(base.guidance_scale, 0, limits.guidance_scale, "#/guidance_scale")
        if params.prompts:
            check_range(base.n, 1, count - 1, "#/n")
            self._check_total(count * len(params.prompts), "#/n_candidates")
        elif params.winners is not None:
            check_range(params.winners, 1, MAX_WINNERS, "#/n")

    def _check_attributes(self, attributes: Sequence[Attribute]) -> None:
        if not 1 <= len(attributes) <= MAX_ATTRIBUTES:
            raise InvalidRequest(
                f"{len(attributes)} attributes were sent; send 1 to {MAX_ATTRIBUTES}", pointer="#/attributes"
            )
        names = [each.name for each in attributes]
        for place, each in enumerate(attributes):
            base = f"#/attributes/{place}"
            check_text(each.name, f"{base}/name", self._service.limits, allow_empty=False)
            if names.index(each.name) != place:
                raise InvalidRequest("two attributes have this name: use different ones", pointer=f"{base}/name")
            if not 2 <= len(each.values) <= MAX_ATTRIBUTES:
                raise InvalidRequest(
                    f"the attribute has {len(each.values)} values; send 2 to {MAX_ATTRIBUTES} texts, of which one fits "
                    "an image",
                    pointer=f"{base}/values",
                )
            if len(set(each.values)) < len(each.values):
                raise InvalidRequest("a value is sent twice: send different texts", pointer=f"{base}/values")
            for index, text in enumerate(each.values):
                check_text(text, f"{base}/values/{index}", self._service.limits, allow_empty=False)

    def _check_total(self, count: int, pointer: str) -> None:
        if count > MAX_CANDIDATES:
            raise InvalidRequest(
                f"the audit has {count} candidates; send at most {MAX_CANDIDATES}, in several audits", pointer=pointer
            )

    async def _stored(self, place: int, generation_id: str) -> Generation:
        pointer = f"#/generations/{place}"
        try:
            found = await self._service.get(generation_id)
        except FrontrunnerError as error:
            error.pointer = pointer
            raise
        if found.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {found.status}: audit succeeded ones", pointer=pointer)
        return found

    async def _made(self, params: AuditParams, lost: list[Generation]) -> list[Generation]:
        """One generation per prompt; cancelled together.

        Those that fail are left out and add to `lost`. Raises the first one's error if none succeeds.
        """
        found, open_ids = list[Generation](), set[str]()
        try:
            for first in range(0, len(params.prompts), AT_ONCE):
                submitted = []
                for place, prompt in enumerate(params.prompts[first : first + AT_ONCE], first):
                    asked = replace(params.base, prompt=prompt, pruning="off", seed=_seed(params.base, place))
                    submitted.append(await self._submit(asked))
                    open_ids.add(submitted[-1])
                for each in submitted:
                    ended = await self._service.wait(each)
                    open_ids.discard(each)
                    if ended.status is Status.SUCCEEDED:
                        found.append(ended)
                    else:
                        lost.append(ended)
        finally:
            cancels = (self._service.cancel_on_disconnect(each) for each in open_ids)
            await asyncio.shield(asyncio.gather(*cancels, return_exceptions=True))
        if not found:
            raise _why(lost[0])
        return found

    async def _submit(self, params: GenerationParams) -> str:
        """Submit a generation. Cancelling this cancels it, even half recorded."""
        submitting = asyncio.create_task(self._service.submit(params, queue_if_full=True, previews=False))
        try:
            return (await asyncio.shield(submitting)).id
        except asyncio.CancelledError:
            with suppress(FrontrunnerError):
                await self._service.cancel_on_disconnect((await submitting).id)
            raise

    async def _texts(self, attributes: Sequence[Attribute], probe: Probe) -> tuple[list[Embeddings], list[Notice]]:
        """The vectors (K, D) of each attribute's values, and notices on texts."""
        found, notices = list[Embeddings](), list[Notice]()
        for attribute in attributes:
            vectors = await self._engine.embed_texts(attribute.values, probe.info.id)
            read = [*zip(attribute.values, vectors, strict=True)]
            notices += [truncation_notice(probe.info.id, t, v.truncation) for t, v in read if v.truncation is not None]
            notices += reading_notices((probe.info.id, text, each.reading) for text, each in read)
            notices += [replace(n, code="text_not_recognised") for n in unrecognised(attribute.values, vectors)]
            found.append(np.stack([each.vector for each in vectors]))
        return found, notices

    async def _field(
        self, source: Generation, texts: Sequence[Embeddings], probe: Probe, params: AuditParams
    ) -> AuditedField:
        """The candidates that could have won, with their classes."""
        ranking, safety = source.spec.ranking, source.spec.safety
        competed = [
            c.index
            for c in source.candidates
            if c.score is not None and not c.is_vetoed(ranking) and not c.is_withheld(safety)
        ]
        seen, vectors = await self._vectors(source, competed, probe)
        ranks = [source.candidates[index].rank for index in seen]
        last = math.inf if params.winners is None else params.winners
        won = np.asarray([rank is not None and rank <= last for rank in ranks], bool)
        scale, certainty = probe.info.logit_scale, params.certainty
        return AuditedField(tuple(classify(vectors, each, scale, certainty) for each in texts), won)

    async def _vectors(
        self, source: Generation, indices: Sequence[int], probe: Probe
    ) -> tuple[Sequence[int], Embeddings]:
        """The candidates that the probe sees, and its vectors.

        They are the stored ones, else those of the images.

        Images that safety withholds are not seen.
        """
        if probe.is_main:
            return indices, (await self._arrays.embeddings(source))[list(indices)]
        stored = (await self._arrays.members(source)).get(probe.info.id)
        if stored is not None and np.isfinite(stored[list(indices)]).all():
            return indices, stored[list(indices)]
        found, vectors = list[int](), [np.zeros((0, probe.info.dimensions), np.float32)]
        for first in range(0, len(indices), SEEN_AT_ONCE):
            images = dict[int, NDArray[np.uint8]]()
            for index in indices[first : first + SEEN_AT_ONCE]:
                with suppress(ImageWithheld):
                    images[index] = await self._images.sampled(source, index)
            if images:
                found += images
                vectors.append(await self._engine.embed_images([*images.values()], probe.info.id))
        return found, np.concatenate(vectors)


def _why(ended: Generation) -> FrontrunnerError:
    """The error of a generation that did not succeed."""
    if ended.failure is None:
        return EngineFailed("the generations of the audit were cancelled: audit again")
    return stored_error(ended.failure.code, ended.failure.detail)


def _seed(base: GenerationParams, place: int) -> int | None:
    """The seed of a prompt: no two prompts share a candidate's seed."""
    if base.seed is None or not isinstance(base.n_candidates, int):
        return base.seed
    return (base.seed + place * base.n_candidates) % SEED_LIMIT
