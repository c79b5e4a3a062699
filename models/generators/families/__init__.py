"""Families of pipelines with a native loop. Importing this package loads no torch.

A family is one module: read `flux` and write the next one like it. It subclasses `base.NativeFamily` and gets one entry
in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping

FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "stable_diffusion.StableDiffusion",
    "StableDiffusionXLPipeline": "stable_diffusion.StableDiffusionXL",
    "FluxPipeline": "flux.Flux",
}
"""Module and class of a family in this package, by pipeline class of diffusers."""
