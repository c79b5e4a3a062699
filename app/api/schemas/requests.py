"""Request types of the native routes and their conversion to the domain.

Requests are strict: a field that is unknown, of the wrong type or not finite is refused. Here are only the bounds that
hold on every server; the service checks the limits of the server and of the model. Responses are in
`app.api.schemas.responses`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from app.api.schemas.base import (
    MAX_ITEMS,
    Between,
    Count,
    FiniteFloat,
    Guidance,
    ModelName,
    NonBlankText,
    PreviewRounds,
    Ratio,
    RequestModel,
    Seed,
    Share,
    Size,
    StepCount,
    Text,
)
from app.api.schemas.flags import SAFETY, SafetyInput
from app.api.schemas.provenance import ProvenanceInput, to_provenance
from app.api.schemas.ranking.inputs import RankingInput
from app.api.schemas.steering import SteeringInput, to_steering
from app.api.schemas.variants import VARIANTS, Variants
from app.domain import Checkpoint, Safety, Webhook
from app.service import GenerationParams
from models.loras import MAX_LORAS, MAX_WEIGHT, Lora

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
ResponseFormat: TypeAlias = Literal["url", "b64_json"]


class CheckpointInput(RequestModel):
    """After step `at` of those that run, only the best `keep` candidates continue."""

    at: StepCount
    keep: Count | None = None


class WebhookInput(RequestModel):
    """A signed POST (Standard Webhooks) when the generation ends.

    Delivery is retried until the receiver responds with 2xx or 410, for about three days.
    """

    url: Annotated[str, StringConstraints(max_length=2000)] = Field(
        description="https URL with a public address, unless the server allows others.",
        json_schema_extra={"format": "uri"},
    )
    events: list[Literal["succeeded", "failed", "cancelled"]] = Field(
        ["succeeded", "failed", "cancelled"], min_length=1, max_length=3, description="Final states that are reported."
    )

    def to_domain(self) -> Webhook:
        """Convert to the domain."""
        return Webhook(self.url, tuple(self.events))


class ControlInput(RequestModel):
    """An image that the composition follows, such as a sketch, edges or depths."""

    kind: Annotated[str, StringConstraints(min_length=1, max_length=32)] = Field(
        description="A kind of the model; GET /v1/models lists them."
    )
    image: str = Field(description="The image, as a data: URI or bare base64; cropped and scaled.")
    weight: Annotated[FiniteFloat, Between(0, 2)] = Field(1.0, description="0 has no effect.")


Controls: TypeAlias = Annotated[list[ControlInput], Field(max_length=4)]
Pruning: TypeAlias = Literal["auto", "off"] | Annotated[list[CheckpointInput], Field(max_length=16)]


class LoraInput(RequestModel):
    """A LoRA adapter and its weight."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="Name of an adapter of the server; GET /v1/models lists them."
    )
    weight: Annotated[FiniteFloat, Between(-MAX_WEIGHT, MAX_WEIGHT)] = Field(
        1.0, description="1 as trained, 0 has no effect."
    )

    def to_domain(self) -> Lora:
        """Convert to the domain."""
        return Lora(self.name, self.weight)


class SamplingOptions(RequestModel):
    """Fields of every request that samples.

    null selects the default of the model, the server or the source generation.
    """

    negative_prompt: Text | None = Field(
        None, description="Steers sampling away from this text; also a negative of weight 1."
    )
    n_candidates: Literal["auto"] | Count | None = Field(
        None, description="Images to sample and rank; auto samples waves until another would gain little."
    )
    max_candidates: Count | None = Field(None, description="Maximum for n_candidates auto.")
    steps: StepCount | None = Field(None, description="Denoising steps.")
    guidance_scale: Guidance | None = Field(
        None, description="Up to the model's `unguided_scale`, mostly 1, sampling is unguided."
    )
    sampler: ModelName | None = Field(None, description="A sampler of the model; GET /v1/models lists them.")
    loras: list[LoraInput] | None = Field(
        None, max_length=MAX_LORAS, description="LoRA adapters to use together; an empty list uses none."
    )
    seed: Seed | None = Field(
        None,
        description="Seed of candidate 0, below 2^64; candidate i has seed + i. null or -1 selects a random one.",
    )
    ranking: RankingInput = RankingInput()
    steering: SteeringInput | None = Field(
        None, description="Moves candidates along the gradient of their own score. A scale of 0 is off."
    )
    pruning: Pruning | None = Field(
        None, description="auto, off, or the checkpoints at which weak candidates are dropped."
    )
    provenance: ProvenanceInput | None = Field(
        None, description="metadata writes prompt, seed, model and score into image files, c2pa a signed manifest."
    )
    safety: SafetyInput | None = Field(None, description=SAFETY)
    webhook: WebhookInput | None = Field(None, description="Receiver of a notification when the generation ends.")

    @field_validator("loras")
    @classmethod
    def _check_loras(cls, loras: list[LoraInput] | None) -> list[LoraInput] | None:
        names = [lora.name for lora in loras or ()]
        if len(set(names)) < len(names):
            raise ValueError("a LoRA adapter is named twice: name each once")
        return loras


class SamplingRequest(SamplingOptions):
    """A generation from noise or from an uploaded image."""

    prompt: NonBlankText = Field(description="What the images should show.")
    model: ModelName | None = Field(None, description="A generator; GET /v1/models lists them. Default: the first.")
    deterministic: bool = Field(
        False, description="Use a fixed batch size, so that pixels do not depend on other requests."
    )
    aspect_ratio: Ratio | None = Field(
        None, description="WIDTH:HEIGHT instead of size: selects the nearest size at the model's default area."
    )
    fit: Literal["exact", "nearest"] = Field(
        "exact",
        description="exact refuses a size that the model does not support; nearest samples a near size and resizes.",
    )
    output_size: Size | None = Field(
        None,
        description="WIDTHxHEIGHT to crop and scale images to. Without size, images are sampled in its ratio.",
    )

    variants: Variants | None = Field(None, description=VARIANTS)

    def build_params(
        self,
        *,
        n: int,
        size: str | None,
        previews: int,
        output_format: ImageFormat,
        quality: Literal["draft", "standard", "best"] | None,
    ) -> GenerationParams:
        """Convert to service parameters, without the ranking.

        `ranking_inputs.resolve_ranking` resolves the ranking.
        """
        width, height = parse_size(size) if size else (None, None)
        ratio = self.aspect_ratio.split(":") if self.aspect_ratio else None
        return GenerationParams(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            n_candidates=self.n_candidates,
            max_candidates=self.max_candidates,
            n=n,
            width=width,
            height=height,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            seed=drawn(self.seed),
            loras=to_loras(self.loras),
            model=self.model,
            aspect_ratio=(int(ratio[0]), int(ratio[1])) if ratio else None,
            fit=self.fit,
            output_size=parse_size(self.output_size) if self.output_size else None,
            wordings=tuple(self.variants) if isinstance(self.variants, list) else (),
            quality=quality,
            pruning=to_pruning(self.pruning),
            steering=to_steering(self.steering),
            partial_images=previews,
            deterministic=self.deterministic,
            output_format=output_format,
            provenance=to_provenance(self.provenance),
            safety=to_safety(self.safety),
            webhook=self.webhook.to_domain() if self.webhook is not None else None,
        )


class GenerationRequest(SamplingRequest):
    """Sample `n_candidates` images, rank them, return the best `n`."""

    n: Count = Field(1, description="Images to return, best first.")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels.")
    previews: PreviewRounds = Field(0, description="Rounds of preview images in the event stream.")
    response_format: ResponseFormat = Field("url", description="Whether `data` holds links or base64 images.")
    output_format: ImageFormat = Field("png", description="File format of the images.")
    quality: Literal["draft", "standard", "best"] | None = Field(
        None, description="Selects candidates and steps that the request omits; GET /v1/models shows them."
    )
    image: str | None = Field(None, description="The initial image, such as a sketch, as a data: URI or bare base64.")
    strength: Share | None = Field(
        None, description="Only with image: 0 keeps the initial image, 1 ignores it. Default: 0.75."
    )

    control: Controls = Field([], description="Images that the composition follows, for models with ControlNets.")

    @field_validator("strength")
    @classmethod
    def _check_strength(cls, strength: float | None, info: ValidationInfo) -> float | None:
        if strength is not None and info.data.get("image") is None:
            raise ValueError("`strength` requires `image`: send both or neither")
        return strength

    def to_domain(self) -> GenerationParams:
        """Convert to service parameters, without image and ranking."""
        return self.build_params(
            n=self.n,
            size=self.size,
            previews=self.previews,
            output_format=self.output_format,
            quality=self.quality,
        )


class RankForm(RequestModel):
    """Images to rank against a prompt, as files of a form."""

    prompt: NonBlankText = Field(description="Text to score the images against.")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="skip omits images that cannot be decoded and lists them in `skipped`."
    )
    negative_prompt: Text | None = Field(None, description="A negative of weight 1.")
    model: ModelName | None = Field(None, description="A model whose scorers rank; GET /v1/models lists them.")
    ranking: RankingInput = Field(RankingInput(), description="As a JSON string in a form.")
    images: list[str] = Field(
        min_length=1,
        max_length=MAX_ITEMS,
        description="Image files.",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )


class RankRequest(RankForm):
    """Images to rank against a prompt, as data URIs or bare base64."""

    images: list[str] = Field(min_length=1, max_length=MAX_ITEMS, description="Images, as data: URIs or bare base64.")


def to_loras(body: list[LoraInput] | None) -> tuple[Lora, ...] | None:
    """Convert adapters to service parameters."""
    return None if body is None else tuple(lora.to_domain() for lora in body)


def to_safety(mode: str | None) -> Safety | None:
    """Convert a safety mode to service parameters."""
    return None if mode is None else Safety(mode)


def drawn(seed: int | None) -> int | None:
    """Return None for a random seed, which other services write as -1; else the seed."""
    return None if seed == -1 else seed


def parse_size(size: str) -> tuple[int, int]:
    """Width and height in pixels of a text that matches `SIZE_PATTERN`."""
    width, _, height = size.partition("x")
    return int(width), int(height)


def to_pruning(body: Pruning | None) -> str | tuple[Checkpoint, ...] | None:
    """Convert pruning to service parameters."""
    return tuple(Checkpoint(c.at, c.keep) for c in body) if isinstance(body, list) else body
