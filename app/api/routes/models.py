"""Models, limits and calibration at /v1/models, as an OpenAI model list."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api import openapi
from app.api.dependencies import Services, ServicesDep, loaded_models
from app.api.schemas.base import ResponseModel, is_absent
from app.api.schemas.calibrations import CalibrationOutput
from app.api.schemas.flags import SafetyInput
from app.api.schemas.responses import LoraOutput
from app.engine.protocols import PanelScorer
from app.engine.registry import ModelStateName
from app.errors import NotFound, StoreUnavailable
from app.service import Limits, SafetyChecker, all_qualities
from app.service.serving import ModelDirectory
from models.protocols import GeneratorInfo, ScorerInfo, ScoringInfo

router = APIRouter(prefix="/v1/models", tags=["models"])


class QualityOutput(ResponseModel):
    """Candidates and steps of requests that name neither."""

    n_candidates: int
    steps: int


class WholeImagesOutput(ResponseModel):
    """What a remote generator takes.

    `seeds`: equal seeds give equal images. `strengths`: initial images have a strength.
    """

    seeds: bool
    steps: bool
    init_images: bool
    strengths: bool
    masks: bool


class GeneratorOutput(ResponseModel):
    """Defaults and limits of a generator.

    Sizes are in pixels and multiples of `size_multiple`. `guidance`: `cfg` combines two predictions, `embedded` is an
    input of the denoiser. `unguided_scale`: the largest guidance scale at which a `cfg` model is unguided, and negative
    prompts do not steer. `second_order`: samplers with two denoiser calls per step.
    `controls`: kinds of control images.
    `prompt_weights`: whether weights such as `(red:1.4)` are `applied`, need a package (`not_installed`), or are
    `unsupported`. `long_prompts`: texts above the token limit are truncated, or read in `chunks`.
    `defaults_from`: `steps` and `guidance_scale` are the `pipeline`'s defaults, follow from the model's `files`, or are
    assumed from a word in its `name`.
    `quality`: candidates and steps of each quality, for requests that name neither.
    `steering`: whether requests may have `steering`; `steering_refusal`: why not, as far as is known.
    `loras`: LoRA adapters that requests may name; `default_loras`: those of requests that name none.
    `spread_styles`: candidates of a prompt without a style are drawn in these in turn; empty: in none.
    `whole_images`: traits of a remote generator; null for others.
    """

    revision: str
    width: int
    height: int
    size_multiple: int
    max_size: int
    steps: int
    guidance_scale: float
    sampler: str
    samplers: list[str]
    token_limit: int
    prediction_type: str
    device: str
    dtype: str
    guidance: Literal["cfg", "embedded", "none"]
    negative_prompts: bool
    controls: list[str]
    unguided_scale: float
    second_order: list[str]
    prompt_weights: Literal["applied", "not_installed", "unsupported"]
    long_prompts: Literal["truncate", "chunks"]
    defaults_from: Literal["pipeline", "files", "name"]
    steering: bool
    steering_refusal: str | None
    loras: list[str]
    quality: dict[str, QualityOutput]
    default_loras: list[LoraOutput]
    spread_styles: list[str]
    whole_images: WholeImagesOutput | None


class ScorerOutput(ResponseModel):
    """A scorer.

    `null_mean`, `null_std`: cosines of images with unrelated texts; null if not measured. `logit_bias`: of models
    trained with a sigmoid, where sigmoid(logit_scale * cosine + logit_bias) is the probability of a match; else null.
    """

    revision: str
    dimensions: int
    image_size: int
    token_limit: int
    logit_scale: float
    device: str
    null_mean: float | None
    null_std: float | None
    logit_bias: float | None


class PanelOutput(ResponseModel):
    """A scorer and what it is for.

    `role`: the `main` one races and ranks, a `member` ranks in requests that name it, the `referee` never ranks.
    `embeds`: its vectors are stored, so candidates are ranked again by any text. Any other scorer has numbers of one
    text, unless it reads no text (`reads_text`). A `remote` one is asked over a network.
    """

    id: str
    revision: str
    role: Literal["main", "member", "referee"]
    embeds: bool
    remote: bool
    reads_text: bool

    @classmethod
    def from_domain(cls, scorer: PanelScorer) -> PanelOutput:
        """Convert from the engine."""
        info = scorer.info
        remote, reads_text = (info.remote, info.reads_text) if isinstance(info, ScoringInfo) else (False, True)
        return cls(
            id=info.id,
            revision=info.revision,
            role=scorer.role,
            embeds=scorer.embeds,
            remote=remote,
            reads_text=reads_text,
        )


class UpscalerOutput(ResponseModel):
    """An upscaler: it enlarges returned images by `factor`.

    `tile` is the longest side of one call in pixels; 0 for any.
    """

    revision: str
    architecture: str
    factor: int
    tile: int
    device: str
    dtype: str


class ServingOutput(ResponseModel):
    """How one of several models is served.

    `state`: `loaded`, `loading`, `failed` (`problem` says why), or `waiting` for its first request. A `resident` model
    loads at the start, any other one on demand, until others need its memory. `weight_bytes` is measured when it loads,
    0 until then. `scorer` is the main scorer; null while it is not known. Requests without a model use the `default`.
    `replicas` has the state on every live replica. `here` is false for a model of other replicas only: its requests
    wait in the queue for them, and `state` is the best of theirs.
    """

    state: ModelStateName
    here: bool
    replicas: dict[str, ModelStateName]
    resident: bool
    default: bool
    weight_bytes: int
    scorer: str | None
    problem: str | None


class ModelResponse(ResponseModel):
    """A model; a pack is generator and scorer under one id.

    `created` is always 0: OpenAI clients expect it, and the time is unknown. `serving` is present with several models.
    One that was never loaded has no further members.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["frontrunner"] = "frontrunner"
    generator: GeneratorOutput | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)
    scorer: ScorerOutput | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)
    upscaler: UpscalerOutput | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)
    calibration: CalibrationOutput | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)
    serving: ServingOutput | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)


class LimitsOutput(ResponseModel):
    """Limits and defaults of requests on this server."""

    candidates: int
    default_candidates: int
    steps: int
    guidance_scale: float
    prompt_chars: int
    negatives: int
    images: int
    references: int
    output_side: int
    output_pixels: int
    texts: int
    guards: list[str]
    installed_guards: list[str]


class SafetyInfoOutput(ResponseModel):
    """The safety classifier, and the mode of requests that name none.

    `classifier` is null if there is none. `revision` and `threshold` are known once it is loaded.
    """

    default: SafetyInput
    classifier: str | None
    revision: str | None
    threshold: float | None


class ModelListResponse(ResponseModel):
    """The models and the limits of requests.

    `scorers` are all scorers of the default model, the main one first, once it was loaded. `ensemble` is whether
    requests that name none use all of them.
    """

    object: Literal["list"] = "list"
    data: list[ModelResponse]
    scorers: list[PanelOutput]
    ensemble: bool
    safety: SafetyInfoOutput
    limits: LimitsOutput


@router.get("", summary="List the models", responses=openapi.error_responses(503))
@router.head("", include_in_schema=False)
async def list_models(services: ServicesDep) -> ModelListResponse:
    """The generators, the default one first, the scorers, and the limits of requests."""
    ensembles, directory = services.ensembles, services.models
    with contextlib.suppress(StoreUnavailable):  # then the list is that of the last look
        await directory.look_elsewhere()
    known = not directory.several or directory.registry.default in dict(directory.scorers())
    return ModelListResponse(
        data=_models(directory),
        scorers=[PanelOutput.from_domain(each) for each in ensembles.scorers] if known else [],
        ensemble=ensembles.always,
        safety=_safety(services.generations.safety),
        limits=LimitsOutput(**asdict(services.generations.limits)),
    )


@router.get("/{model_id:path}", summary="Read a model", responses=openapi.error_responses(404, 503))
@router.head("/{model_id:path}", include_in_schema=False)
async def read_model(
    model_id: Annotated[
        str, Path(description="Id of the model; may contain slashes, as hub ids do.", examples=["pictogram"])
    ],
    services: ServicesDep,
) -> ModelResponse:
    """The id is the value of `model` in requests.

    An alias reads the model that it stands for. Scorers with embeddings can be read too.
    """
    if (found := _model(services, model_id)) is None:
        await services.models.look_elsewhere()
        found = _model(services, model_id)
    if found is not None:
        return found
    raise NotFound("no model has this id: use one of GET /v1/models")


def _model(services: Services, model_id: str) -> ModelResponse | None:
    """A model by id or alias; None if it is not served."""
    models = {model.id: model for model in _models(services.models)}
    name = model_id if model_id in models else services.aliases.loaded(model_id, loaded_models(services))
    return models.get(name) or _member(services, name)


def _member(services: Services, name: str) -> ModelResponse | None:
    """A scorer that embeddings may name, but no request for images."""
    info = next((info for _, info in services.models.embedders() if info.id == name), None)
    return None if info is None else ModelResponse.model_validate({"id": name, "scorer": _details(info)})


def _details(info: ScorerInfo) -> dict[str, Any]:
    return {name: value for name, value in asdict(info).items() if name != "id"}


def _safety(safety: SafetyChecker) -> SafetyInfoOutput:
    info = safety.info
    return SafetyInfoOutput(
        default=safety.default.value,
        classifier=safety.name,
        revision=info.revision if info is not None else None,
        threshold=info.threshold if info is not None else None,
    )


def _models(directory: ModelDirectory[Services]) -> list[ModelResponse]:
    """The generators in order, each followed by what belongs to it."""
    parts = dict[str, dict[str, Any]]()
    states = {state.id: state for state in directory.registry.states()}
    for name, services in directory.bundles.items():
        if name in states:
            state, scorer = states[name], dict(directory.scorers()).get(name)
            default = name == directory.registry.default
            served = ServingOutput(
                state=state.state,
                here=True,
                replicas=directory.states_by_replica(name),
                resident=state.resident,
                default=default,
                weight_bytes=state.stats.weight_bytes,
                scorer=scorer,
                problem=state.problem,
            )
            parts.setdefault(name, {})["serving"] = served
            if scorer is None:
                continue
        _add(services, parts)
    for name in directory.elsewhere:
        parts.setdefault(name, {})["serving"] = _served_elsewhere(directory, name)
        if (away := directory.away(name)) is not None:
            _add(away, parts)
    return [ModelResponse(id=name, **kinds) for name, kinds in parts.items()]


def _served_elsewhere(directory: ModelDirectory[Services], name: str) -> ServingOutput:
    """How other replicas serve a model."""
    states, card = directory.states_by_replica(name), directory.elsewhere[name].card
    return ServingOutput(
        state=min(states.values(), key=("loaded", "loading", "waiting").index),
        here=False,
        replicas=states,
        resident=False,
        default=False,
        weight_bytes=0,
        scorer=card.scorer.id if card is not None else None,
        problem=None,
    )


def _spread_styles(generator: GeneratorInfo, limits: Limits) -> list[str]:
    styles = generator.styles.decided(limits.spread_styles) if generator.styles is not None else None
    return list(styles.phrases) if styles is not None and styles.spread else []


def _add(services: Services, parts: dict[str, dict[str, Any]]) -> None:
    """Add the parts of one model, by id. Raises Loading."""
    service = services.generations
    generator, scorer = service.models()
    calibration = service.calibration()
    loaded = {"generator": asdict(generator), "scorer": asdict(scorer)}
    if (upscaler := service.upscaler()) is not None:
        loaded["upscaler"] = asdict(upscaler)
    refused = service.stats().steering_refusal
    loaded["generator"] |= {"steering": refused is None, "steering_refusal": refused}
    loaded["generator"]["spread_styles"] = _spread_styles(generator, service.limits)
    default = loaded["generator"].pop("loras")
    names = services.loras.names if services.loras is not None and default is not None else ()
    loaded["generator"] |= {"loras": list(names), "default_loras": default or []}
    qualities = all_qualities(generator, service.limits)
    loaded["generator"]["quality"] = {name: asdict(defaults) for name, defaults in qualities.items()}
    for kind, details in loaded.items():
        parts.setdefault(details.pop("id"), {})[kind] = details
    if calibration is not None:
        parts[generator.id]["calibration"] = asdict(calibration)
