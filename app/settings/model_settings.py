"""Settings of one model: how generator, scorers and their parts are loaded.

A process has them once, or once for each table of the file that `FRONTRUNNER_MODELS` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from app.engine.cluster.devices import parse_devices
from app.settings.remote import RemoteSettings
from models import load_options as loading
from models.ensembles import check_names
from models.load_options import CACHES, LoadOptions, LongPrompts, NumberFormat, Offload, Quantization, parse_controls
from models.loras import LoraFolder

ENV_PREFIX = "FRONTRUNNER_"


class ModelSettings(RemoteSettings):
    """Names and options of a generator with its scorers."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", str_strip_whitespace=True)

    generator: str = Field("pictogram", min_length=1, description="generator: pack, folder, hub id or remote")
    generator_mode: Literal["auto", "native", "gate"] = Field(
        "auto", description="auto: native loop where the family has one, else the stock pipeline; native, gate: only it"
    )
    scorer: str = Field("pictogram", min_length=1, description="scorer that embeds: pack, folder, hub id or other name")
    scorers: str = Field("", description="scorers that rankings may name beside the main one, comma-separated")
    ensemble: bool = Field(
        False, description="whether rankings that name no scorers use all of them, without `layout:` scorers"
    )
    referee: str = Field("", description="scorer that never ranks, and judges the winners; empty for none")
    calibration: Path | None = Field(None, description="file written by `frontrunner calibrate` for these models")
    preview_decoder: str = Field("", description="folder or hub id of a tiny decoder for previews; empty for none")
    controls: str = Field(
        "", description="ControlNets of the generator: kind=folder or hub id, separated by commas; a sketch is a kind"
    )
    lora_dir: Path | None = Field(None, description="folder of LoRA adapters: a .safetensors file or sub-folder each")
    loras: str = Field("", description="adapters of requests that name none: name:weight, separated by commas")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$", description="auto, cpu, cuda:1 or mps")
    devices: str = Field(
        "", description="devices that share each generation, such as cuda:0,cuda:1 or cpu*2; empty for the device above"
    )
    cluster: str = Field(
        "",
        pattern=r"^(auto|[A-Za-z0-9._-]+:[0-9]{1,5})?$",
        description="Ray cluster whose workers run the model: HOST:PORT, or auto for one here; empty for none",
    )
    dtype: NumberFormat = Field("auto", description="number format: float32, bfloat16, float16; auto suits the device")
    long_prompts: LongPrompts = Field(
        "truncate", description="texts above the token limit: truncate, or chunks for Stable Diffusion and SDXL"
    )
    quantization: Quantization = Field(
        "", description="quantised weights: torchao-int8, -int4, -float8, bitsandbytes-int8, -nf4; empty for none"
    )
    quantized_parts: str = Field(
        "", description="parts to quantise, comma-separated; empty for the denoiser and the text encoders"
    )
    gguf: str = Field("", description="GGUF file of the denoiser, as a path or OWNER/NAME/FILE; empty for none")
    offload: Offload = Field("none", description="what waits in host memory: none, model, sequential")
    compile: bool = Field(False, description="whether the denoiser's repeated blocks are compiled")
    attention: str = Field("", description="attention backend of diffusers, such as native or flash; empty for its own")
    cache: str = Field("none", description="none; the caches of diffusers are refused, and the error says why")

    upscaler: str = Field(
        "", description="model file that spandrel reads, or folder or hub id of a diffusers upscaler; empty for none"
    )
    upscaler_tile: int = Field(512, ge=96, le=4096, description="longest side of one call of the upscaler, in pixels")

    vlm_api_key: str = Field("", repr=False, pattern=r"^[!-~]*$", description="key of VLM endpoints; empty for none")
    vlm_concurrency: int = Field(4, ge=1, le=256, description="maximum requests at once to one such endpoint")
    vlm_timeout_s: float = Field(60, gt=0, le=3600, description="seconds for an endpoint to score all images of a call")
    vlm_calls_per_day: int = Field(10_000, ge=0, description="maximum requests to one endpoint in a day of UTC")

    @field_validator("cache")
    @classmethod
    def _check_cache(cls, value: str) -> str:
        if value != "none":
            reason = CACHES.get(value, f"it is no cache of diffusers; those are {', '.join(CACHES)}")
            raise ValueError(f"{value!r} is refused: {reason}; set none")
        return value

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, value: str) -> str:
        parse_devices(value)
        return value

    @field_validator("controls")
    @classmethod
    def _check_controls(cls, value: str) -> str:
        parse_controls(value)
        return value

    @model_validator(mode="after")
    def _check_model(self) -> ModelSettings:
        LoraFolder.of(self.lora_dir, self.loras)
        if self.cluster and self.devices:
            raise ValueError("CLUSTER and DEVICES exclude each other: a worker of a cluster has one device")
        check_names([self.scorer, *names(self.scorers)], self.referee)
        return self

    @property
    def workers(self) -> tuple[str, ...]:
        """The device of each worker; one of them without `devices`."""
        return parse_devices(self.devices) or (self.device,)

    def on(self, device: str) -> Self:
        """The same models on one device."""
        return self.model_copy(update={"device": device, "devices": ""})

    @property
    def lora_folder(self) -> LoraFolder | None:
        """The LoRA adapters; None without a folder."""
        return LoraFolder.of(self.lora_dir, self.loras)

    @property
    def load_options(self) -> LoadOptions:
        """How models are loaded, besides their names."""
        return LoadOptions(
            upscaler=self.upscaler,
            upscaler_tile=self.upscaler_tile,
            dtype=self.dtype,
            quantization=self.quantization,
            quantized_parts=names(self.quantized_parts),
            gguf=self.gguf,
            offload=self.offload,
            compile=self.compile,
            attention=self.attention,
            controls=parse_controls(self.controls),
            loras=self.lora_folder,
            scorers=names(self.scorers),
            referee=self.referee,
            long_prompts=self.long_prompts,
            endpoint=loading.EndpointLimits(
                self.vlm_api_key, self.vlm_concurrency, self.vlm_timeout_s, self.vlm_calls_per_day
            ),
            remote=self.remote_limits,
        )


def names(value: str) -> tuple[str, ...]:
    """The items of a comma-separated setting."""
    return tuple(name.strip() for name in value.split(",") if name.strip())
