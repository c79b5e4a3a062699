"""From a draft to a spec: every default filled in, every bound checked, every contradiction named.

Pure but for fresh ids and seeds. Pointers are JSON Pointers into the native request body.
"""

from __future__ import annotations

import math
import secrets
import time

from app.domain import SEED_LIMIT, Checkpoint, GenerationSpec, Notice, Ranking
from app.engine import pruning
from app.errors import Invalid, NotFound
from app.service.values import Draft, Limits
from models.contract import GeneratorInfo

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SIZE_FLOOR = 8


def new_id() -> str:
    """`gen_` and a ULID: 48 bits of milliseconds, then 80 random bits, in Crockford's base 32."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "gen_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def resolve(
    draft: Draft, generator: GeneratorInfo, limits: Limits, default_pruning: str
) -> tuple[GenerationSpec, tuple[Notice, ...]]:
    """The spec of a draft, and what the caller should know of how it was read. Raises Invalid and NotFound."""
    if draft.model not in (None, generator.id):
        raise NotFound(f"model {draft.model!r} is not loaded here; {generator.id!r} is", pointer="#/model")
    check_text(draft.prompt, "#/prompt", limits, empty=False)
    check_text(draft.negative_prompt, "#/negative_prompt", limits)
    check_ranking(draft.ranking, limits)
    n_candidates = draft.n_candidates or max(limits.default_candidates, draft.n)
    _bound(n_candidates, 1, limits.candidates, "#/n_candidates")
    _bound(draft.n, 1, n_candidates, "#/n")
    steps = generator.steps if draft.steps is None else draft.steps
    _bound(steps, 1, limits.steps, "#/steps")
    guidance = generator.guidance_scale if draft.guidance_scale is None else draft.guidance_scale
    _bound(guidance, 0, limits.guidance_scale, "#/guidance_scale")
    seed = secrets.randbelow(SEED_LIMIT) if draft.seed is None else draft.seed
    _bound(seed, 0, SEED_LIMIT - 1, "#/seed")
    width, height = draft.width or generator.width, draft.height or generator.height
    _check_size(width, height, generator)
    checkpoints, notices = _checkpoints(draft, default_pruning, steps, n_candidates)
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
        sampler=_sampler(draft.sampler, generator),
        seed=seed,
        ranking=draft.ranking,
        checkpoints=pruning.partial(draft.partial_images, steps, checkpoints),
        deterministic=draft.deterministic,
        owner=draft.owner,
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


def check_ranking(ranking: Ranking, limits: Limits) -> None:
    """Refuse a ranking that no score can be computed from."""
    if len(ranking.negatives) > limits.negatives:
        raise Invalid(f"at most {limits.negatives} negatives are taken", pointer="#/ranking/negatives")
    for place, negative in enumerate(ranking.negatives):
        check_text(negative.text, f"#/ranking/negatives/{place}/text", limits, empty=False)
        if not (math.isfinite(negative.weight) and negative.weight > 0):
            raise Invalid("a weight must be a number above 0", pointer=f"#/ranking/negatives/{place}/weight")
    _bound(ranking.negative_weight, 0, 10, "#/ranking/negative_weight")
    _bound(ranking.diversity, 0, 1, "#/ranking/diversity")
    if ranking.min_score is not None:
        _bound(ranking.min_score, -20, 1, "#/ranking/min_score")


def _bound(value: float, low: float, high: float, pointer: str) -> None:
    if not low <= value <= high:
        raise Invalid(f"{value} is not between {low} and {high}", pointer=pointer)


def _check_size(width: int, height: int, generator: GeneratorInfo) -> None:
    for side in (width, height):
        if side % generator.size_multiple:
            raise Invalid(f"{side} is not a multiple of {generator.size_multiple}", pointer="#/size")
        _bound(side, max(_SIZE_FLOOR, generator.size_multiple), generator.max_size, "#/size")


def _sampler(asked: str | None, generator: GeneratorInfo) -> str:
    if asked is not None and asked not in generator.samplers:
        raise Invalid(f"sampler {asked!r} is not one of {', '.join(generator.samplers)}", pointer="#/sampler")
    return asked or generator.sampler


def _checkpoints(
    draft: Draft, default: str, steps: int, n_candidates: int
) -> tuple[tuple[Checkpoint, ...], tuple[Notice, ...]]:
    """Where candidates are pruned, and a notice when `auto` could not be followed."""
    asked = default if draft.pruning is None else draft.pruning
    if isinstance(asked, tuple):
        wrong = pruning.problem(asked, steps=steps, n_candidates=n_candidates, n=draft.n)
        if wrong is not None:
            raise Invalid(wrong[1], pointer=f"#/pruning/{wrong[0]}")
        return asked, ()
    if asked == "off" or n_candidates == draft.n:
        return (), ()
    return (), (Notice("pruning_uncalibrated", "this model has no calibration, so nothing was pruned"),)
