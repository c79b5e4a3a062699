"""From a draft to a spec: every default filled in, every bound checked, every contradiction named.

Pure but for fresh ids and seeds. Pointers are JSON Pointers into the native request body.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from app.domain import SEED_LIMIT, Checkpoint, GenerationSpec, Notice
from app.engine.pruning import checkpoints as pruning
from app.errors import InvalidRequest, NotFound
from app.service.ids import new_id
from app.service.types import GenerationParams, Limits
from app.service.validation import check_range, check_ranking, check_size, check_text
from models.protocols import GeneratorInfo

DEFAULT_WAVE_SIZE = 8
"""Candidates in a wave, unless more are to be returned."""

_INIT_IMAGE_UNCALIBRATED = Notice(
    "pruning_uncalibrated", "previews of candidates that begin as a picture are not calibrated, so nothing was pruned"
)


@dataclass(frozen=True, slots=True)
class PruningContext:
    """A race as the planner wants to know it: candidates that start together, the steps they make, and how.

    `diverse` says that the n are not simply the best, so that there must be some to choose from.
    """

    n_candidates: int
    n: int
    sampler: str
    steps: int
    guidance_scale: float
    diverse: bool = False

    @property
    def guided(self) -> bool:
        """Whether each step of a row is two entries of the denoiser's batch."""
        return self.guidance_scale > 1


PlanPruning: TypeAlias = Callable[[str | None, PruningContext], tuple[tuple[Checkpoint, ...], bool, tuple[Notice, ...]]]
"""From "auto", "off" or None (the server's default): checkpoints, whether in shadow, notices."""


def build_spec(
    params: GenerationParams, generator: GeneratorInfo, limits: Limits, plan_pruning: PlanPruning
) -> tuple[GenerationSpec, tuple[Notice, ...]]:
    """The spec of a draft, and what the caller should know of how it was read. Raises InvalidRequest and NotFound.

    `plan_pruning` plans the pruning that "auto" stands for; it may take a second.
    """
    if params.model not in (None, generator.id):
        raise NotFound(f"model {params.model!r} is not loaded here; {generator.id!r} is", pointer="#/model")
    check_text(params.prompt, "#/prompt", limits, allow_empty=False)
    check_text(params.negative_prompt, "#/negative_prompt", limits)
    check_ranking(params.ranking, limits)
    n_candidates, wave = _candidate_counts(params, limits)
    fitted = _fitted(n_candidates, params, limits)
    steps = generator.steps if params.steps is None else params.steps
    check_range(steps, 1, limits.steps, "#/steps")
    guidance = generator.guidance_scale if params.guidance_scale is None else params.guidance_scale
    check_range(guidance, 0, limits.guidance_scale, "#/guidance_scale")
    seed = secrets.randbelow(SEED_LIMIT) if params.seed is None else params.seed
    check_range(seed, 0, SEED_LIMIT - 1, "#/seed")
    width, height = params.width or generator.width, params.height or generator.height
    check_size(width, height, generator)
    sampler = _check_sampler(params.sampler, generator)
    executed_steps = steps if params.start is None else params.start.steps_made(sampler, steps)
    context = PruningContext(
        wave or n_candidates, params.n, sampler, executed_steps, guidance, params.ranking.diversity > 0
    )
    checkpoints, shadow, notices = _checkpoints(params, context, plan_pruning)
    spec = GenerationSpec(
        id=new_id(),
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        n_candidates=n_candidates,
        n=params.n,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance,
        sampler=sampler,
        seed=seed,
        ranking=params.ranking.with_negative_prompt(params.negative_prompt),
        checkpoints=pruning.with_preview_rounds(params.partial_images, executed_steps, checkpoints),
        wave=wave,
        shadow=shadow,
        deterministic=params.deterministic,
        owner=params.owner,
        parent=params.parent,
        start=params.start,
    )
    return spec, (*fitted, *notices)


def _check_sampler(sampler: str | None, generator: GeneratorInfo) -> str:
    if sampler is not None and sampler not in generator.samplers:
        raise InvalidRequest(f"sampler {sampler!r} is not one of {', '.join(generator.samplers)}", pointer="#/sampler")
    return sampler or generator.sampler


def _candidate_counts(params: GenerationParams, limits: Limits) -> tuple[int, int | None]:
    """How many candidates there may be, and how many come in a wave (None: all at once)."""
    if params.max_candidates is not None and params.n_candidates != "auto":
        raise InvalidRequest('max_candidates goes with n_candidates "auto"', pointer="#/max_candidates")
    if params.n_candidates == "auto":
        cap = limits.candidates if params.max_candidates is None else params.max_candidates
        check_range(cap, 1, limits.candidates, "#/max_candidates")
        check_range(params.n, 1, cap, "#/n")
        cap = _affordable(cap, params)
        return cap, min(cap, max(DEFAULT_WAVE_SIZE, params.n))
    if params.n_candidates is None:
        check_range(params.n, 1, limits.candidates, "#/n")
        return _affordable(max(limits.default_candidates, params.n), params), None
    check_range(params.n_candidates, 1, limits.candidates, "#/n_candidates")
    check_range(params.n, 1, params.n_candidates, "#/n")
    return params.n_candidates, None


def _affordable(n_candidates: int, params: GenerationParams) -> int:
    """As many as the quota has room for, and never fewer than are to be returned: those the store then refuses."""
    return n_candidates if params.affordable is None else max(params.n, min(n_candidates, params.affordable))


def _fitted(n_candidates: int, params: GenerationParams, limits: Limits) -> tuple[Notice, ...]:
    """A notice when a quota made it fewer candidates."""
    usual, _ = _candidate_counts(replace(params, affordable=None), limits)
    if n_candidates == usual:
        return ()
    detail = f"at most {n_candidates} candidates, not {usual}: this is what the key's quota has room for"
    return (Notice("limited_by_quota", detail, {"n_candidates": n_candidates, "usual": usual}),)


def _checkpoints(
    params: GenerationParams, context: PruningContext, plan_pruning: PlanPruning
) -> tuple[tuple[Checkpoint, ...], bool, tuple[Notice, ...]]:
    """Where candidates are pruned, whether in shadow only, and a notice when `auto` could not be followed."""
    if isinstance(params.pruning, tuple):
        problem = pruning.find_problem(
            params.pruning, steps=context.steps, n_candidates=context.n_candidates, n=context.n
        )
        if problem is not None:
            raise InvalidRequest(problem[1], pointer=f"#/pruning/{problem[0]}")
        return params.pruning, False, ()
    if params.start is not None:
        return (), False, (_INIT_IMAGE_UNCALIBRATED,) if params.pruning == "auto" else ()
    return plan_pruning(params.pruning, context)
