"""Modular pipelines, from the parts of the standard ones."""

from __future__ import annotations

from typing import Any

import diffusers

from tests.contract.families import transformers


def _modular(blocks: Any, pipe: Any) -> Any:
    made = blocks.init_pipeline()
    known = made._component_specs
    made.update_components(
        **{name: part for name, part in pipe.components.items() if part is not None and name in known}
    )
    return made


def modular_flux() -> Any:
    return _modular(diffusers.FluxAutoBlocks(), transformers.flux())


def modular_z_image() -> Any:
    made = _modular(diffusers.ZImageAutoBlocks(), transformers.z_image())
    made.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=3.0))
    return made
