"""From a draft to a spec: every default filled in, every bound checked, every contradiction named.

Pure but for fresh ids and seeds. Pointers are JSON Pointers into the native request body.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from app.domain import SEED_LIMIT, Checkpoint, GenerationSpec, Notice, Ranking
from app.engine import pruning
from app.errors import Invalid, NotFound
from app.service.values import Draft, Limits
from models.contract import GeneratorInfo

WAVE = 8
"""Candidates in a wave, unless more are to be returned."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SIZE_FLOOR = 8
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


def new_id() -> str:
    """`gen_` and a ULID: 48 bits of milliseconds, then 80 random bits, in Crockford's base 32."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "gen_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


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
        ranking=draft.ranking,
        checkpoints=pruning.partial(draft.partial_images, made, checkpoints),
        wave=wave,
        shadow=shadow,
        deterministic=draft.deterministic,
        owner=draft.owner,
        parent=draft.parent,
        start=draft.start,
    )
    return spec, notices


def check_text(text: str, pointer: str, limits: Limits, *, empty: bool = True) -> None:
    """Refuse a text that is blank where it may not be, too long, or no text at all."""
    if not empty and not text.strip():
        raise Invalid("the text is empty", pointer=pointer)
    if len(text) > limits.prompt_chars:
        raise Invalid(f"{len(text)} characters are more than the limit of {limits.prompt_chars}", pointer=pointer)
    if any((ord(c) < 32 and c not in "\n\t\r") or 0xD800 <= ord(c) < 0xE000 or ord(c) == 127 for c in text):
        raise Invalid("the text holds control characters or lone surrogates", pointer=pointer)


def check_ranking(ranking: Ranking, limits: Limits, base: str = "#/ranking") -> None:
    """Refuse a ranking that no score can be computed from. `base` points at where it is in the body."""
    if ranking.prompt is not None:
        check_text(ranking.prompt, f"{base}/prompt", limits, empty=False)
    if len(ranking.negatives) > limits.negatives:
        raise Invalid(f"at most {limits.negatives} negatives are taken", pointer=f"{base}/negatives")
    for place, negative in enumerate(ranking.negatives):
        check_text(negative.text, f"{base}/negatives/{place}/text", limits, empty=False)
        if not (math.isfinite(negative.weight) and negative.weight > 0):
            raise Invalid("a weight must be a number above 0", pointer=f"{base}/negatives/{place}/weight")
    bound(ranking.negative_weight, 0, 10, f"{base}/negative_weight")
    bound(ranking.diversity, 0, 1, f"{base}/diversity")
    if ranking.min_score is not None:
        bound(ranking.min_score, -20, 1, f"{base}/min_score")


def bound(value: float, low: float, high: float, pointer: str) -> None:
    """Refuse a number outside [low, high], or none."""
    if not low <= value <= high:
        raise Invalid(f"{value} is not between {low} and {high}", pointer=pointer)


def check_size(width: int, height: int, generator: GeneratorInfo) -> None:
    """Refuse a size that the generator cannot make."""
    for side in (width, height):
        if side % generator.size_multiple:
            raise Invalid(f"{side} is not a multiple of {generator.size_multiple}", pointer="#/size")
        bound(side, max(_SIZE_FLOOR, generator.size_multiple), generator.max_size, "#/size")


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
        return cap, min(cap, max(WAVE, draft.n))
    if draft.n_candidates is None:
        bound(draft.n, 1, limits.candidates, "#/n")
        return max(limits.default_candidates, draft.n), None
    bound(draft.n_candidates, 1, limits.candidates, "#/n_candidates")
    bound(draft.n, 1, draft.n_candidates, "#/n")
    return draft.n_candidates, None


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
