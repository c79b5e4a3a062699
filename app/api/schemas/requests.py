"""What callers send to the native routes, and its way into the domain; `app.api.schemas.responses` is the way back.

Requests are strict: a field that is unknown, of the wrong type or not finite is refused. What a server allows or a
model can do is checked by the service; here stand only the bounds that hold everywhere.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.domain import SEED_LIMIT, Checkpoint, Negative, Ranking, Webhook
from app.service import GenerationParams

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
ResponseFormat: TypeAlias = Literal["url", "b64_json"]

_INVISIBLE_CATEGORIES = {"Zs", "Zl", "Zp", "Cc", "Cf"}
PRINTABLE_PATTERN = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
PROFILE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
SIZE_PATTERN = r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"


def _reject_control_characters(text: str) -> str:
    kinds = {unicodedata.category(c) for c in set(text) - set("\t\n\r")}
    if "Cc" in kinds:
        raise ValueError("control characters other than tabs and line breaks are not taken")
    if "Cs" in kinds:
        raise ValueError("half of a surrogate pair stands alone, which is no text")
    return text


def _reject_blank(text: str) -> str:
    if all(unicodedata.category(c) in _INVISIBLE_CATEGORIES or c.isspace() for c in set(text)):
        raise ValueError("the text is empty")
    return text


Text: TypeAlias = Annotated[
    str, AfterValidator(_reject_control_characters), Field(json_schema_extra={"pattern": PRINTABLE_PATTERN})
]
NonBlankText: TypeAlias = Annotated[Text, AfterValidator(_reject_blank), Field(min_length=1)]
Size: TypeAlias = Annotated[str, StringConstraints(pattern=SIZE_PATTERN)]
ModelName: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=300)]
ProfileName: TypeAlias = Annotated[str, StringConstraints(pattern=PROFILE_PATTERN)]
FiniteFloat: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


MAX_MEMBERS = 64
"""Of one object, whatever they are called: more than any schema here has."""

MAX_ITEMS = 1024
"""Of one list, before the server's own limits are looked at."""


class RequestModel(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_member_count(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_MEMBERS:
            raise ValueError(f"an object of more than {MAX_MEMBERS} members")
        return data


class NegativeInput(RequestModel):
    """A text that candidates are marked down for."""

    text: NonBlankText
    weight: FiniteFloat = Field(1.0, ge=0.001, le=100, description="Relative to the other negatives.")

    def to_domain(self) -> Negative:
        """As the ranking knows it."""
        return Negative(self.text, self.weight)


class ReferenceInput(RequestModel):
    """A picture that images should look like, or with a weight below 0 should not: an upload or a candidate."""

    image: str | None = Field(None, description="data: URI of an image, in base64.")
    generation: str | None = Field(None, max_length=64, description="Whose candidate it is.")
    index: int | None = Field(None, ge=0, lt=2**31, description="Of the candidate.")
    weight: FiniteFloat = Field(0.5, ge=-10, le=10, description="Beside the prompt, which has weight 1; not 0.")

    @model_validator(mode="after")
    def _check_one_source(self) -> ReferenceInput:
        if (self.image is None) == (self.generation is None) or (self.index is None) != (self.generation is None):
            raise ValueError("either image, or generation and index are wanted")
        return self


class TasteInput(RequestModel):
    """A profile of likes that joins the score."""

    profile: ProfileName
    weight: FiniteFloat = Field(1.0, ge=0, le=1, description="1 is as much as a taste may ever count.")


class RankingInput(RequestModel):
    """How candidates are compared: score = similarity - negative_weight * penalty + taste.

    Every field is optional. An omitted field keeps its value: that of the source generation in rerank and refine,
    else the default. `null` resets a field to its default.
    """

    prompt: NonBlankText | None = Field(None, description="Text to compare with. Default: the prompt that was sampled.")
    negatives: list[NegativeInput] | None = Field(
        None,
        max_length=MAX_ITEMS,
        fail_fast=True,
        description="Texts that the penalty counts; they do not steer sampling. Default: none.",
    )
    negative_weight: FiniteFloat | None = Field(None, ge=0, le=10, description="Weight of the penalty. Default: 0.5.")
    references: list[ReferenceInput] | None = Field(
        None, max_length=MAX_ITEMS, fail_fast=True, description="Pictures to be like, or unlike. Default: none."
    )
    taste: TasteInput | None = Field(None, description="Profile whose taste joins the score. Default: none.")
    diversity: FiniteFloat | None = Field(
        None, ge=0, le=1, description="Above 0, returned images are also kept apart from each other. Default: 0."
    )
    min_score: FiniteFloat | None = Field(
        None, ge=-20, le=1, description="Candidates below it are not returned. Default: no limit."
    )

    def to_domain(self, base: Ranking) -> Ranking:
        """`base` with the fields of this request, but for references and taste, which need a lookup."""
        changes: dict[str, Any] = {
            name: getattr(_DEFAULT, name) if (value := getattr(self, name)) is None else value
            for name in ("prompt", "negative_weight", "diversity", "min_score")
            if name in self.model_fields_set
        }
        if "negatives" in self.model_fields_set:
            changes["negatives"] = tuple(n.to_domain() for n in self.negatives or ())
        return replace(base, **changes)


_DEFAULT = Ranking()


class CheckpointInput(RequestModel):
    """After step `at`, of those that are made, the best `keep` candidates go on."""

    at: int = Field(ge=1, le=1000)
    keep: int | None = Field(None, ge=1, le=1024)


class WebhookInput(RequestModel):
    """Who is told how it ended: a signed POST, as Standard Webhooks has it, tried again until it is taken."""

    url: Annotated[str, StringConstraints(max_length=2000)] = Field(
        description="https, to an address of the public internet unless the server allows others.",
        json_schema_extra={"format": "uri"},
    )
    events: list[Literal["succeeded", "failed", "cancelled"]] = Field(
        ["succeeded", "failed", "cancelled"], min_length=1, max_length=3, description="Of which ends."
    )

    def to_domain(self) -> Webhook:
        """As the service takes it."""
        return Webhook(self.url, tuple(self.events))


Pruning: TypeAlias = Literal["auto", "off"] | Annotated[list[CheckpointInput], Field(max_length=16)]


class SamplingOptions(RequestModel):
    """What every request for a generation may say; null is the model's, the server's or the source's default."""

    negative_prompt: Text | None = Field(None, description="Steers sampling away and counts as a negative of weight 1.")
    n_candidates: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Images that are sampled and compared; auto makes waves until another would gain little."
    )
    max_candidates: int | None = Field(None, ge=1, le=1024, description="Cap of n_candidates auto.")
    steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps.")
    guidance_scale: FiniteFloat | None = Field(None, ge=0, le=100, description="1 or less samples without guidance.")
    sampler: ModelName | None = Field(None, description="One of the model's samplers, see GET /v1/models.")
    seed: int | None = Field(None, ge=0, lt=SEED_LIMIT, description="Of candidate 0; candidate i has seed + i.")
    ranking: RankingInput = RankingInput()
    pruning: Pruning | None = Field(None, description="Whether weak candidates are dropped on the way, or where.")
    webhook: WebhookInput | None = Field(None, description="Where the end of the generation is announced.")


class SamplingRequest(SamplingOptions):
    """A generation from noise or from an uploaded image."""

    prompt: NonBlankText = Field(description="What the images should show.")
    model: ModelName | None = Field(None, description="The generator that is loaded, see GET /v1/models.")
    deterministic: bool = Field(False, description="One fixed batch size: the pixels do not depend on other requests.")

    def build_params(self, *, n: int, size: str | None, previews: int, output_format: ImageFormat) -> GenerationParams:
        """As the service takes it, without the ranking, which `ranking_inputs.resolve_ranking` looks up."""
        width, height = parse_size(size) if size else (None, None)
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
            seed=self.seed,
            model=self.model,
            pruning=to_pruning(self.pruning),
            partial_images=previews,
            deterministic=self.deterministic,
            output_format=output_format,
            webhook=self.webhook.to_domain() if self.webhook is not None else None,
        )


class GenerationRequest(SamplingRequest):
    """A generation: sample `n_candidates`, rank them, return the best `n`."""

    n: int = Field(1, ge=1, le=1024, description="Images that are returned, best first.")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels.")
    previews: int = Field(0, ge=0, le=10, description="Rounds of preview images in the event stream.")
    response_format: ResponseFormat = Field("url", description="Whether `data` holds links or the images themselves.")
    output_format: ImageFormat = Field("png", description="File format of the images.")
    image: str | None = Field(None, description="data: URI of a picture or a sketch that the candidates begin as.")
    strength: FiniteFloat | None = Field(
        None, ge=0, le=1, description="Of an image: 0 leaves it, 1 forgets it; default 0.75."
    )

    @field_validator("strength")
    @classmethod
    def _check_strength(cls, strength: float | None, info: ValidationInfo) -> float | None:
        if strength is not None and info.data.get("image") is None:
            raise ValueError("strength goes with image")
        return strength

    def to_domain(self) -> GenerationParams:
        """As the service takes it, without image and ranking."""
        return self.build_params(n=self.n, size=self.size, previews=self.previews, output_format=self.output_format)


class RankForm(RequestModel):
    """Images to compare with a prompt, as files of a form."""

    prompt: NonBlankText = Field(description="What the images are compared with.")
    negative_prompt: Text | None = Field(None, description="Counts as a negative of weight 1.")
    ranking: RankingInput = Field(RankingInput(), description="In a form: as JSON.")
    images: list[str] = Field(
        min_length=1,
        max_length=MAX_ITEMS,
        description="Image files.",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )


class RankRequest(RankForm):
    """Images to compare with a prompt, as data URIs."""

    images: list[str] = Field(min_length=1, max_length=MAX_ITEMS, description="data: URIs of images, in base64.")


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a text that matches `SIZE_PATTERN`."""
    width, _, height = size.partition("x")
    return int(width), int(height)


def to_pruning(body: Pruning | None) -> str | tuple[Checkpoint, ...] | None:
    """Pruning as the service takes it."""
    return tuple(Checkpoint(c.at, c.keep) for c in body) if isinstance(body, list) else body
