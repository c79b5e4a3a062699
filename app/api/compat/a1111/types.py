"""Requests and responses of the web UI's API, with additional members."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.api.schemas.base import Between, ResponseModel, Text
from app.api.schemas.ranking.inputs import RankingInput

MAX_MEMBERS = 256
"""Maximum members of a request, known or unknown; the web UI knows about 70."""

MAX_NAME = 64
"""Maximum characters of an unknown member's name in a warning."""

MAX_SIDE, MAX_SCALE = 99_999, 64
"""Bounds of sides in pixels and of `hr_scale`; the service has narrower ones."""

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]{1,10}(\.[0-9]{1,10})?")

ANY = object()
"""In `MEMBERS`: no value of the member has an effect, so none is worth a warning."""

MEMBERS: dict[str, tuple[Any, Any]] = {
    "subseed": (-1, ANY),
    "subseed_strength": (0, (0,)),
    "seed_resize_from_h": (-1, (0, -1)),
    "seed_resize_from_w": (-1, (0, -1)),
    "restore_faces": (None, (False,)),
    "tiling": (None, (False,)),
    "do_not_save_samples": (False, ANY),
    "do_not_save_grid": (False, ANY),
    "save_images": (False, ANY),
    "eta": (None, (0, 1)),
    "s_min_uncond": (None, (0,)),
    "s_churn": (None, (0,)),
    "s_tmax": (None, (0,)),
    "s_tmin": (None, (0,)),
    "s_noise": (None, (1,)),
    "override_settings_restore_afterwards": (True, ANY),
    "refiner_checkpoint": (None, ("", "None")),
    "refiner_switch_at": (None, ANY),
    "disable_extra_networks": (False, ANY),
    "firstpass_image": (None, ("",)),
    "comments": (None, ({},)),
    "force_task_id": (None, ANY),
    "infotext": (None, ("",)),
}
"""Members without effect: the default, and the values that request no effect."""

TXT2IMG_MEMBERS: dict[str, tuple[Any, Any]] = {
    **MEMBERS,
    "firstphase_width": (0, (0,)),
    "firstphase_height": (0, (0,)),
    "hr_upscaler": (None, ANY),
    "hr_second_pass_steps": (0, ANY),
    "hr_checkpoint_name": (None, ("", "Use same checkpoint")),
    "hr_sampler_name": (None, ANY),
    "hr_scheduler": (None, ANY),
    "hr_prompt": ("", ("",)),
    "hr_negative_prompt": ("", ("",)),
    "denoising_strength": (None, ANY),
}
IMG2IMG_MEMBERS: dict[str, tuple[Any, Any]] = {
    **MEMBERS,
    "image_cfg_scale": (None, ANY),
    "mask_blur_x": (4, ANY),
    "mask_blur_y": (4, ANY),
    "mask_blur": (None, ANY),
    "inpainting_fill": (0, ANY),
    "inpaint_full_res": (True, ANY),
    "inpaint_full_res_padding": (0, ANY),
    "initial_noise_multiplier": (None, (1,)),
    "latent_mask": (None, ("",)),
}
MASKED_MEMBERS: dict[str, tuple[Any, Any]] = {
    **IMG2IMG_MEMBERS,
    "mask_blur_x": (4, (0,)),
    "mask_blur_y": (4, (0,)),
    "mask_blur": (None, (0,)),
    "inpainting_fill": (0, (1,)),
    "inpaint_full_res": (True, (False,)),
}
"""The same with a mask.

It is not blurred, the original is below it, and the whole image is sampled.
"""


def _integer(value: object) -> object:
    return int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value


def _number(value: object) -> object:
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _loose(kind: str, pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": kind}, {"type": "string", "pattern": f"^{pattern.pattern}$"}]})


Integer: TypeAlias = Annotated[int, BeforeValidator(_integer), _loose("integer", _INTEGER)]
Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number), _loose("number", _NUMBER)]
"""Numbers, or texts of numbers, as some clients send them."""

Side: TypeAlias = Annotated[Integer, Between(1, MAX_SIDE)]
OtherSide: TypeAlias = Annotated[Integer, Between(0, MAX_SIDE)]


class ProcessingRequest(BaseModel):
    """The members that both routes use.

    Others are accepted and named in `warnings` of the response's `info`. null and an omitted member select the
    default of the model or the server.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: Text | None = Field("", description="What the images should show.")
    negative_prompt: Text | None = Field("", description="Steers sampling away from this text; also lowers the score.")
    styles: list[Text] | None = Field(None, max_length=64, description="Names of GET /sdapi/v1/prompt-styles.")
    seed: Integer | None = Field(-1, description="Seed of candidate 0; -1 selects a random one.")
    sampler_name: str | None = Field(None, max_length=100, description="A name of GET /sdapi/v1/samplers.")
    sampler_index: str | None = Field(None, max_length=100, description="Older name of `sampler_name`.")
    scheduler: str | None = Field(None, max_length=100, description="A name of GET /sdapi/v1/schedulers.")
    batch_size: Integer | None = Field(1, ge=1, description="Images to return, times `n_iter`.")
    n_iter: Integer | None = Field(1, ge=1, description="Images to return, times `batch_size`.")
    steps: Integer | None = Field(None, description="Denoising steps.")
    cfg_scale: Number | None = Field(None, description="Guidance scale.")
    width: Side | None = Field(None, description="Width of the images in pixels.")
    height: Side | None = Field(None, description="Height of the images in pixels.")
    override_settings: dict[str, Any] | None = Field(
        None, description="`sd_model_checkpoint`, `samples_format` and `enable_pnginfo` have an effect."
    )
    script_name: str | None = Field(None, max_length=200, description="No script is available: 422.")
    script_args: list[Any] | None = None
    alwayson_scripts: dict[str, Any] | None = Field(
        None, description="`controlnet` with a list of units in `args`; other scripts only if they are disabled."
    )
    send_images: bool | None = True
    frontrunner_candidates: Integer | None = Field(
        None, description="Images to sample and rank. Default: the server's."
    )
    frontrunner_previews: Annotated[Integer, Between(0, 10)] | None = Field(
        None, description="Rounds of previews for `progress` and `interrupt`, beside those of pruning."
    )
    frontrunner_ranking: RankingInput = Field(RankingInput(), description="How the images are ranked.")

    @model_validator(mode="before")
    @classmethod
    def _check_member_count(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_MEMBERS:
            raise ValueError(f"the object has more than {MAX_MEMBERS} members: send fewer")
        return data

    @property
    def members(self) -> dict[str, tuple[Any, Any]]:
        """Members without effect, see `MEMBERS`."""
        return MEMBERS

    @property
    def n(self) -> int:
        """Number of images to return, not checked."""
        return (1 if self.batch_size is None else self.batch_size) * (1 if self.n_iter is None else self.n_iter)

    @property
    def sent(self) -> dict[str, Any]:
        """Values of members that are not fields."""
        return self.model_extra or {}

    def unsupported(self) -> list[str]:
        """Names of members whose value has no effect here but has one in a web UI."""
        return [
            name
            for name, (_, neutral) in self.members.items()
            if neutral is not ANY and (value := self.sent.get(name)) is not None and value not in neutral
        ]

    def unknown(self) -> list[str]:
        """Names of unknown members, in ASCII and shortened."""
        names = (name for name in self.sent if name not in self.members)
        return [name.encode("ascii", "replace").decode("ascii")[:MAX_NAME] for name in names]

    def echo(self, **used: Any) -> dict[str, Any]:
        """The known members as the web UI returns them: sent, `used` or default values."""
        defaults = {name: default for name, (default, _) in self.members.items()}
        fields = self.model_dump(mode="json", exclude=set(self.sent) | {"frontrunner_ranking"})
        sent = {name: value for name, value in self.sent.items() if name in self.members and value is not None}
        return {**defaults, **fields, **used, **sent}


class TextToImageRequest(ProcessingRequest):
    """A generation from noise."""

    enable_hr: bool | None = Field(False, description="Enlarges the images by a filter, without a second pass.")
    hr_scale: Annotated[Number, Between(1, MAX_SCALE)] | None = Field(2.0, description="Factor of `enable_hr`.")
    hr_resize_x: OtherSide | None = Field(0, description="Width instead of `hr_scale`; 0 for none.")
    hr_resize_y: OtherSide | None = Field(0, description="Height instead of `hr_scale`; 0 for none.")

    @property
    def members(self) -> dict[str, tuple[Any, Any]]:
        """See the base class."""
        return TXT2IMG_MEMBERS


class ImageToImageRequest(ProcessingRequest):
    """A generation from an image."""

    init_images: list[str] | None = Field(
        None, max_length=64, description="The initial image, as a data: URI or bare base64; only the first is used."
    )
    mask: str | None = Field(
        None, description="White, or opaque in an image with transparency, where the image is redrawn."
    )
    inpainting_mask_invert: Integer | bool | None = Field(0, description="1 redraws what is not masked.")
    resize_mode: Integer | None = Field(
        0, description="The initial image is always cropped to the ratio, as 1 asks; others add a warning."
    )
    denoising_strength: Number | None = Field(0.75, description="0 keeps the initial image, 1 ignores it.")
    include_init_images: bool | None = Field(False, description="Repeat the images in `parameters`.")

    @property
    def members(self) -> dict[str, tuple[Any, Any]]:
        """See the base class."""
        return MASKED_MEMBERS if self.mask else IMG2IMG_MEMBERS

    @property
    def invert(self) -> bool:
        """Whether the area outside the mask is redrawn."""
        return bool(self.inpainting_mask_invert)

    def echo(self, **used: Any) -> dict[str, Any]:
        """See the base class."""
        members = super().echo(**used)
        return members if self.include_init_images else {**members, "init_images": None, "mask": None}


class WebUIImagesResponse(ResponseModel):
    """Images in base64, best first; `info` is a JSON document as text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class PngInfoRequest(BaseModel):
    """An image with text in its metadata."""

    image: str = Field(description="An image, as a data: URI or bare base64.")


class PngInfoResponse(ResponseModel):
    """Infotext of an image, other texts of the file, and the infotext's settings."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class ProgressState(ResponseModel):
    """What the caller's requests are doing."""

    skipped: bool = False
    interrupted: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressResponse(ResponseModel):
    """Progress of the caller's requests, 0 to 1, and estimated seconds to the end."""

    progress: float = 0.0
    eta_relative: float = 0.0
    state: ProgressState = ProgressState()
    current_image: str | None = None
    textinfo: str | None = None
