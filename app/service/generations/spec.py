"""Build a spec from parameters: apply defaults, check limits and conflicts.

Pure except for new ids and seeds. Pointers are JSON Pointers into the native request body.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from app.domain import SEED_LIMIT, SHORT_SEED_LIMIT, Checkpoint, ControlUse, GenerationSpec, Notice, Safety
from app.engine.pruning import checkpoints as pruning
from app.errors import InvalidRequest, NotFound
from app.service.ids import new_id
from app.service.quality import quality_defaults
from app.service.types import GenerationParams, Limits
from app.service.validation import active_guards, check_range, check_ranking, check_text
from app.service.whole_images import whole_image_notices
from models.loras import MAX_LORAS, Lora
from models.prompt_weights import read_weights, without_marks
from models.protocols import GeneratorInfo
from models.protocols.steering import MAX_SCALE, MIN_STEPS, SteeringSettings

SPARE_FINALISTS = 3
"""Candidates that `veto` finishes beyond `n`, to replace flagged ones."""

DEFAULT_WAVE_SIZE = 8
"""Candidates per wave, unless more are to be returned."""

_INIT_IMAGE_UNCALIBRATED = Notice(
    "pruning_uncalibrated", "calibrations do not cover initial images, so nothing was pruned"
)

_LORAS_UNCALIBRATED = Notice("pruning_uncalibrated", "calibrations do not cover LoRA adapters, so nothing was pruned")


@dataclass(frozen=True, slots=True)
class PruningContext:
    """Planner input: candidates that start together, their steps and settings.

    `diverse` means that the n are chosen from a larger pool than the n best previews. So do `scorers`, the names of
    those that rank, unless the main one is alone. None: the main one.
    """

    n_candidates: int
    n: int
    sampler: str
    steps: int
    guidance_scale: float
    diverse: bool = False
    scorers: tuple[str, ...] = ()
    steering: SteeringSettings | None = None


PlanPruning: TypeAlias = Callable[[str | None, PruningContext], tuple[tuple[Checkpoint, ...], bool, tuple[Notice, ...]]]
"""From "auto", "off" or None (default): checkpoints, whether in shadow, notices."""


def drawn_seed() -> int:
    """Draw the seed, 0 to 2**32 - 1, of a request that states none."""
    return secrets.randbelow(SHORT_SEED_LIMIT)


def build_spec(
    params: GenerationParams, generator: GeneratorInfo, limits: Limits, plan_pruning: PlanPruning
) -> tuple[GenerationSpec, tuple[Notice, ...]]:
    """The spec, and notices for the caller. Raises InvalidRequest and NotFound.

    The size of `params` is settled. `plan_pruning` plans "auto"; it may take a second.
    """
    if params.model not in (None, generator.id):
        raise NotFound(f"no generator is named {params.model!r}: use {generator.id!r}", pointer="#/model")
    check_text(params.prompt, "#/prompt", limits, allow_empty=False)
    check_text(params.negative_prompt, "#/negative_prompt", limits)
    _check_wordings(params.wordings, limits)
    check_ranking(params.ranking, limits)
    guards = active_guards(params.ranking, limits)
    defaults = quality_defaults(params.quality, generator, limits)
    limits = replace(limits, default_candidates=defaults.n_candidates)
    n_candidates, wave = _candidate_counts(params, limits)
    fitted = _quota_notice(n_candidates, params, limits)
    steps = defaults.steps if params.steps is None else params.steps
    check_range(steps, 1, limits.steps, "#/steps")
    guidance = generator.guidance_scale if params.guidance_scale is None else params.guidance_scale
    check_range(guidance, 0, limits.guidance_scale, "#/guidance_scale")
    seed = drawn_seed() if params.seed is None else params.seed
    check_range(seed, 0, SEED_LIMIT - 1, "#/seed")
    if params.steering is not None:
        _check_steering(params.steering, steps)
    sampler = _check_sampler(params.sampler, generator)
    executed_steps = steps if params.start is None else params.start.steps_made(sampler, steps)
    params = replace(params, loras=_check_loras(params.loras, generator))
    context = PruningContext(
        wave or n_candidates,
        _finalists(params, wave or n_candidates),
        sampler,
        executed_steps,
        guidance,
        params.ranking.wants_finalists,
        tuple(use.name for use in params.ranking.scorers),
        params.steering,
    )
    checkpoints, shadow, notices = _checkpoints(params, context, generator, plan_pruning)
    notices = (*notices, *_guidance_notice(params.guidance_scale, generator))
    wordings = params.wordings or _styled(params, generator, limits)
    weighted = generator.prompt_weights == "applied" and _has_weights(params)
    negative = without_marks(params.negative_prompt) if weighted else params.negative_prompt
    spec = GenerationSpec(
        id=new_id(),
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        n_candidates=n_candidates,
        n=params.n,
        width=params.width or generator.width,
        height=params.height or generator.height,
        steps=steps,
        guidance_scale=guidance,
        sampler=sampler,
        seed=seed,
        ranking=params.ranking.with_negative_prompt(negative),
        checkpoints=()
        if generator.whole_images is not None
        else pruning.with_preview_rounds(params.partial_images, executed_steps, checkpoints),
        wave=wave,
        shadow=shadow,
        deterministic=params.deterministic,
        owner=params.owner,
        parent=params.parent,
        start=params.start,
        masked=params.inputs is not None and params.inputs.inpainting is not None,
        controls=_controls(params),
        loras=params.loras or (),
        weighted=weighted,
        wordings=wordings,
        spread=generator.styles is not None and generator.styles.made(params.prompt, wordings),
        guards=guards,
        steering=params.steering,
        safety=params.safety or Safety.OFF,
    )
    unused = _unused_notice(spec) if params.wordings else ()
    return spec, (*params.notices, *fitted, *notices, *unused, *_steering_notices(spec))


def _finalists(params: GenerationParams, n_candidates: int) -> int:
    """Candidates that pruning finishes at least."""
    spare = SPARE_FINALISTS if params.safety is Safety.VETO and not isinstance(params.pruning, tuple) else 0
    return max(params.n, min(params.n + spare, n_candidates))


def _guidance_notice(scale: float | None, generator: GeneratorInfo) -> Iterator[Notice]:
    """A notice if a requested guidance scale, other than the default, has no effect."""
    if scale is None or scale == generator.guidance_scale:
        return
    data = {"guidance_scale": scale}
    if generator.guidance == "none":
        detail = "this model is distilled without guidance: guidance_scale has no effect, omit it"
        yield Notice("guidance_not_applied", detail, data)
    elif generator.guidance == "cfg" and not generator.is_guided(scale):
        limit = generator.unguided_scale
        detail = f"guidance_scale {scale:g} is unguided, as is every scale up to {limit:g}; use more than {limit:g}"
        yield Notice("guidance_not_applied", detail, data)


def _has_weights(params: GenerationParams) -> bool:
    texts = (*params.wordings, params.prompt, params.negative_prompt)
    return any(read is not None and read.marks for read in map(read_weights, texts))


def _styled(params: GenerationParams, generator: GeneratorInfo, limits: Limits) -> tuple[str, ...]:
    """The prompt in all styles of the generator, if it names none and they are spread.

    Candidates that start from an image keep its style. One candidate alone gets the style that its seed has in a field.
    """
    styles = generator.styles
    if styles is None or params.start is not None or params.loras:
        return ()
    return styles.decided(limits.spread_styles).wordings(params.prompt)


def _unused_notice(spec: GenerationSpec) -> tuple[Notice, ...]:
    """A notice about requested wordings that no candidate is sampled from."""
    used = {spec.sampling_prompt(index) for index in range(spec.n_candidates)}
    unused = [text for text in dict.fromkeys(spec.wordings) if text not in used]
    if not unused:
        return ()
    detail = f"{len(unused)} of the variants are not sampled: send an `n_candidates` of at least {len(spec.wordings)}"
    return (Notice("variants_unused", detail, {"unused": unused}),)


def _check_wordings(wordings: tuple[str, ...], limits: Limits) -> None:
    check_range(len(wordings), 0, limits.candidates, "#/variants")
    for index, text in enumerate(wordings):
        check_text(text, f"#/variants/{index}", limits, allow_empty=False)


def _controls(params: GenerationParams) -> tuple[ControlUse, ...]:
    controls = params.inputs.controls if params.inputs is not None else ()
    return tuple(ControlUse(each.kind, each.weight) for each in controls)


def _check_loras(loras: tuple[Lora, ...] | None, generator: GeneratorInfo) -> tuple[Lora, ...]:
    """The adapters; the device checks their files."""
    if loras and len(loras) > MAX_LORAS:
        raise InvalidRequest(f"{len(loras)} adapters were sent; send at most {MAX_LORAS}", pointer="#/loras")
    if loras and generator.loras is None:
        raise InvalidRequest("this model takes no LoRA adapters: omit `loras`", pointer="#/loras")
    return (generator.loras or ()) if loras is None else loras


def _check_steering(steering: SteeringSettings, steps: int) -> None:
    """Raise InvalidRequest for settings outside their ranges, and for too few steps."""
    check_range(steering.scale, 0, MAX_SCALE, "#/steering/scale")
    if steps < MIN_STEPS:
        detail = f"steering requires at least {MIN_STEPS} steps, not {steps}: use more, or a steering scale of 0"
        raise InvalidRequest(detail, pointer="#/steps")


def _steering_notices(spec: GenerationSpec) -> tuple[Notice, ...]:
    if spec.steering is None:
        return ()
    if not spec.steered_steps:
        return (Notice("not_steered", "no step lies within the steering's window, so no candidate was steered"),)
    detail = "steering raises the score by construction: do not read the score as proof of quality"
    return (Notice("score_steered", detail),)


def _check_sampler(sampler: str | None, generator: GeneratorInfo) -> str:
    sampler = sampler and sampler.replace("dpm++", "dpmpp")
    if sampler is not None and sampler not in generator.samplers:
        raise InvalidRequest(
            f"sampler {sampler!r} is unknown; use one of {', '.join(generator.samplers)}", pointer="#/sampler"
        )
    return sampler or generator.sampler


def _candidate_counts(params: GenerationParams, limits: Limits) -> tuple[int, int | None]:
    """Maximum number of candidates, and wave size (None: one wave)."""
    if params.max_candidates is not None and params.n_candidates != "auto":
        raise InvalidRequest(
            'max_candidates requires n_candidates "auto": set it or omit max_candidates', pointer="#/max_candidates"
        )
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
    """Limit to the quota, but never below `n`.

    The store rejects what still exceeds the quota.
    """
    return n_candidates if params.affordable is None else max(params.n, min(n_candidates, params.affordable))


def _quota_notice(n_candidates: int, params: GenerationParams, limits: Limits) -> tuple[Notice, ...]:
    """A notice if the quota reduced the candidates."""
    usual, _ = _candidate_counts(replace(params, affordable=None), limits)
    if n_candidates == usual:
        return ()
    detail = f"the key's quota limits this request to {n_candidates} candidates instead of {usual}"
    return (Notice("limited_by_quota", detail, {"n_candidates": n_candidates, "usual": usual}),)


def _checkpoints(
    params: GenerationParams, context: PruningContext, generator: GeneratorInfo, plan_pruning: PlanPruning
) -> tuple[tuple[Checkpoint, ...], bool, tuple[Notice, ...]]:
    """Checkpoints, whether in shadow, and a notice if "auto" is unavailable."""
    if generator.whole_images is not None:
        return (), False, whole_image_notices(params, generator.whole_images, generator.steps)
    if isinstance(params.pruning, tuple):
        _check_cuts(params.pruning, context)
        problem = pruning.find_problem(
            params.pruning, steps=context.steps, n_candidates=context.n_candidates, n=context.n
        )
        if problem is not None:
            raise InvalidRequest(problem[1], pointer=f"#/pruning/{problem[0]}")
        return params.pruning, False, ()
    if params.loras:
        return (), False, (_LORAS_UNCALIBRATED,) if params.pruning == "auto" else ()
    if params.start is not None:
        return (), False, (_INIT_IMAGE_UNCALIBRATED,) if params.pruning == "auto" else ()
    return plan_pruning(params.pruning, context)


def _check_cuts(cuts: tuple[Checkpoint, ...], context: PruningContext) -> None:
    """Reject numbers below 1; `find_problem` compares the others."""
    for place, cut in enumerate(cuts):
        if cut.at < 1:
            check_range(cut.at, 1, max(1, context.steps - 1), f"#/pruning/{place}/at")
        if cut.keep is not None and cut.keep < 1:
            check_range(cut.keep, 1, context.n_candidates, f"#/pruning/{place}/keep")
