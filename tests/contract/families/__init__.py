"""Every family of pipelines at tiny random size, built from configurations without a network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, TypeAlias

from models.generators.families import FAMILIES as NATIVE

Path: TypeAlias = Literal["gate", "native"]


@dataclass(frozen=True, slots=True)
class Family:
    """How a family is built and asked. `size` in pixels; `arguments` go into each call, `guidance` is its scale.

    `from_pictures`: whether its scheduler can begin at a picture. `draws`: the module of a scheduler that draws noise
    at each step, where a native loop draws its own.
    """

    pipeline: str
    module: str
    size: int = 16
    guidance: float = 4.0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    from_pictures: bool = True
    draws: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Who can make its steps."""
        return ("gate", "native") if self.pipeline in NATIVE else ("gate",)

    def build(self, name: str) -> Any:
        """A stock pipeline with random weights."""
        import torch

        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            pipe = getattr(import_module(f"tests.contract.families.{self.module}"), name)()
        assert type(pipe).__name__ == self.pipeline
        pipe.set_progress_bar_config(disable=True)
        return pipe


_SHORT = {"max_sequence_length": 64}
_BARE = {"complex_human_instruction": None}
_INSTRUCTED = {"complex_human_instruction": ["Draw well.", "Draw: "]}

FAMILIES = {
    "stable_diffusion": Family("StableDiffusionPipeline", "unets", 32),
    "stable_diffusion_xl": Family("StableDiffusionXLPipeline", "unets", 32),
    "latent_consistency": Family("LatentConsistencyModelPipeline", "unets", draws="scheduling_lcm"),
    "stable_diffusion_3": Family("StableDiffusion3Pipeline", "transformers"),
    "flux": Family("FluxPipeline", "transformers", guidance=3.5),
    "flux2": Family("Flux2Pipeline", "transformers", arguments={"text_encoder_out_layers": (1,), **_SHORT}),
    "flux2_klein": Family("Flux2KleinPipeline", "transformers", arguments={"text_encoder_out_layers": (1,), **_SHORT}),
    "z_image": Family("ZImagePipeline", "transformers", guidance=3.0),
    "chroma": Family("ChromaPipeline", "transformers"),
    "auraflow": Family("AuraFlowPipeline", "transformers"),
    "pixart_sigma": Family("PixArtSigmaPipeline", "transformers"),
    "pixart_alpha": Family("PixArtAlphaPipeline", "transformers"),
    "ovis_image": Family("OvisImagePipeline", "transformers"),
    "hunyuan_dit": Family("HunyuanDiTPipeline", "transformers"),
    "qwen_image": Family("QwenImagePipeline", "language", 32),
    "krea2": Family("Krea2Pipeline", "language", 32, arguments=_SHORT),
    "lumina2": Family("Lumina2Pipeline", "language", 32),
    "sana": Family("SanaPipeline", "language", 32, arguments=_INSTRUCTED),
    "sana_sprint": Family(
        "SanaSprintPipeline", "language", 32, arguments={**_BARE, "intermediate_timesteps": None}, from_pictures=False
    ),
    "cogview4": Family("CogView4Pipeline", "language", 32),
    "hidream": Family("HiDreamImagePipeline", "language", 32),
    "hunyuan_image": Family("HunyuanImagePipeline", "language", 32),
    "kandinsky5": Family("Kandinsky5T2IPipeline", "language", 32),
    "modular_flux": Family("FluxModularPipeline", "modular", guidance=3.5),
    "modular_z_image": Family("ZImageModularPipeline", "modular", guidance=3.0),
}

IMAGE_TO_IMAGE = {
    "stable_diffusion": "StableDiffusionImg2ImgPipeline",
    "stable_diffusion_xl": "StableDiffusionXLImg2ImgPipeline",
    "stable_diffusion_3": "StableDiffusion3Img2ImgPipeline",
    "flux": "FluxImg2ImgPipeline",
    "z_image": "ZImageImg2ImgPipeline",
    "qwen_image": "QwenImageImg2ImgPipeline",
    "chroma": "ChromaImg2ImgPipeline",
}
"""Pipelines of diffusers that start from images, which families are compared with."""
