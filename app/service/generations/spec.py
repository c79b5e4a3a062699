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
from app.errors import Invalid, NotFound
from app.service.ids import new_id
from app.service.types import Draft, Limits
from app.service.validation import bound, check_ranking, check_size, check_text
from models.protocols import GeneratorInfo

WAVE = 8
"""Candidates in a wave, unless more are to be returned."""

_UNMEASURED = Notice(
    "pruning_uncalibrated", "previews of candidates that begin as a picture are not calibrated, so nothing was pruned"
)


@dataclass(frozen=True, slots=True)
class Heat:
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


Cut: TypeAlias = Callable[[str | None, Heat], tuple[tuple[Checkpoint, ...], bool, tuple[Notice, ...]]]
"""From "auto", "off" or None (the server's default): checkpoints, whether in shadow, notices."""


def resolve(
    draft: Draft, generator: GeneratorInfo, limits: Limits, cut: Cut
) -> tuple[GenerationSpec, tuple[Notice, ...]]:
    """The spec of a draft, and what the caller should know of how it was read. Raises Invalid and NotFound.

    `cut` plans the pruning that "auto" stands for; it may take a second.
    """
    if draft.model not in (None, generator.id):
        raise NotFound(f"model {draft.model!r} is not loaded here; {generator.id!r} is", pointer="#/model")
    check_text(draft.prompt, "#/prompt", limits, empty=False)
    check_text(draft.negative_prompt, "#/negative_prompt", limits)
    check_ranking(draft.ranking, limits)
    n_candidates, wave = _field(draft, limits)
    fitted = _fitted(n_candidates, draft, limits)
    steps = generator.steps if draft.steps is None else draft.steps
    bound(steps, 1, limits.steps, "#/steps")
    guidance = generator.guidance_scale if draft.guidance_scale is None else draft.guidance_scale
    bound(guidance, 0, limits.guidance_scale, "#/guidance_scale")
    seed = secrets.randbelow(SEED_LIMIT) if draft.seed is None else draft.seed
    bound(seed, 0, SEED_LIMIT - 1, "#/seed")
    width, height = draft.width or generator.width, draft.height or generator.height
    check_size(width, height, generator)
    sampler = _sampler(draft.sampler, generator)
    made = steps if draft.start is None else draft.start.steps_made(sampler, steps)
    heat = Heat(wave or n_candidates, draft.n, sampler, made, guidance, draft.ranking.diversity > 0)
    checkpoints, shadow, notices = _checkpoints(draft, heat, cut)
    spec = GenerationSpec(
        id=new_id(),
        prompt=draft.prompt,
        negative_prompt=draft.negative_prompt,
        n_candidates=n_candidates,
        n=draft.n,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance,
        sampler=sampler,
        seed=seed,
        ranking=draft.ranking.with_negative_prompt(draft.negative_prompt),
        checkpoints=pruning.partial(draft.partial_images, made, checkpoints),
        wave=wave,
        shadow=shadow,
        deterministic=draft.deterministic,
        owner=draft.owner,
        parent=draft.parent,
        start=draft.start,
    )
    return spec, (*fitted, *notices)


def _sampler(asked: str | None, generator: GeneratorInfo) -> str:
    if asked is not None and asked not in generator.samplers:
        raise Invalid(f"sampler {asked!r} is not one of {', '.join(generator.samplers)}", pointer="#/sampler")
    return asked or generator.sampler


def _field(draft: Draft, limits: Limits) -> tuple[int, int | None]:
    """How many candidates there may be, and how many come in a wave (None: all at once)."""
    if draft.max_candidates is not None and draft.n_candidates != "auto":
        raise Invalid('max_candidates goes with n_candidates "auto"', pointer="#/max_candidates")
    if draft.n_candidates == "auto":
        cap = limits.candidates if draft.max_candidates is None else draft.max_candidates
        bound(cap, 1, limits.candidates, "#/max_candidates")
        bound(draft.n, 1, cap, "#/n")
        cap = _affordable(cap, draft)
        return cap, min(cap, max(WAVE, draft.n))
    if draft.n_candidates is None:
        bound(draft.n, 1, limits.candidates, "#/n")
        return _affordable(max(limits.default_candidates, draft.n), draft), None
    bound(draft.n_candidates, 1, limits.candidates, "#/n_candidates")
    bound(draft.n, 1, draft.n_candidates, "#/n")
    return draft.n_candidates, None


def _affordable(n_candidates: int, draft: Draft) -> int:
    """As many as the quota has room for, and never fewer than are to be returned: those the store then refuses."""
    return n_candidates if draft.affordable is None else max(draft.n, min(n_candidates, draft.affordable))


def _fitted(n_candidates: int, draft: Draft, limits: Limits) -> tuple[Notice, ...]:
    """A notice when a quota made it fewer candidates."""
    usual, _ = _field(replace(draft, affordable=None), limits)
    if n_candidates == usual:
        return ()
    detail = f"at most {n_candidates} candidates, not {usual}: this is what the key's quota has room for"
    return (Notice("limited_by_quota", detail, {"n_candidates": n_candidates, "usual": usual}),)


def _checkpoints(draft: Draft, heat: Heat, cut: Cut) -> tuple[tuple[Checkpoint, ...], bool, tuple[Notice, ...]]:
    """Where candidates are pruned, whether in shadow only, and a notice when `auto` could not be followed."""
    if isinstance(draft.pruning, tuple):
        wrong = pruning.problem(draft.pruning, steps=heat.steps, n_candidates=heat.n_candidates, n=heat.n)
        if wrong is not None:
            raise Invalid(wrong[1], pointer=f"#/pruning/{wrong[0]}")
        return draft.pruning, False, ()
    if draft.start is not None:
        return (), False, (_UNMEASURED,) if draft.pruning == "auto" else ()
    return cut(draft.pruning, heat)
