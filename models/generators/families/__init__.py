"""Families of pipelines with a native loop. Importing this package loads no torch.

A family is one module: read `flux` and write the next one like it. It subclasses `base.NativeFamily` and gets one entry
in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping

FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "stable_diffusion.StableDiffusion",
    "StableDiffusionXLPipeline": "stable_diffusion.StableDiffusionXL",
    "LatentConsistencyModelPipeline": "stable_diffusion.StableDiffusion",
    "FluxPipeline": "flux.Flux",
    "ZImagePipeline": "z_image.ZImage",
    "Flux2Pipeline": "flux2.Flux2",
    "Flux2KleinPipeline": "flux2.Flux2Klein",
    "QwenImagePipeline": "qwen_image.QwenImage",
    "Krea2Pipeline": "krea2.Krea2",
    "StableDiffusion3Pipeline": "stable_diffusion_3.StableDiffusion3",
    "ChromaPipeline": "chroma.Chroma",
    "SanaPipeline": "sana.Sana",
}
"""Module and class of a family in this package, by pipeline class of diffusers."""
