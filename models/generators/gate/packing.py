"""The map from decoder input back to a pipeline's sample, found by probing.

Also latent blending, which needs it. A pipeline scales, shifts and reorders its sample before it decodes. Each value of
the decoder's input comes from one value of the sample; this is checked for every size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from models.generators.gate.scheduler_proxy import Blend, noised
from models.protocols.image_inputs import Inpainting

_DIGIT = 8
"""Base in which positions are written into a sample.

Small enough for its digits to be distinct in bfloat16.
"""

_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """`z = scale * x[order] + shift`, all flat.

    x is the loop's sample, z the decoder's input.
    """

    shape: tuple[int, ...]
    order: Any
    scale: Any
    shift: Any

    def packed(self, z: Any) -> Any:
        """The sample with this z, float32."""
        x = torch.empty(self.order.numel(), device=self.order.device)
        x[self.order] = (z.reshape(-1).float() - self.shift) / self.scale
        return x.reshape(self.shape)

    def placed(self, z: Any) -> Any:
        """Values of z's form in the places of the sample, unscaled: such as a mask."""
        x = torch.empty(self.order.numel(), dtype=z.dtype, device=self.order.device)
        x[self.order] = z.reshape(-1).to(self.order.device)
        return x.reshape(self.shape)


def probe(unpack: Callable[[Any], Any], like: Any) -> Packing:
    """The packing of a pipeline for samples `like` this one.

    `unpack` is the pipeline's own way to the decoder. Raises ValueError if a value of z depends on several values of
    the sample, or on none.
    """
    flat = like.numel()
    shift = unpack(torch.zeros_like(like)).reshape(-1).float()
    scale = unpack(torch.ones_like(like)).reshape(-1).float() - shift
    if scale.numel() != flat or bool((scale == 0).any()):
        raise ValueError("this pipeline does not support images as input: it does more than pack its latents")
    places = torch.arange(flat, device=like.device)
    order, weight = torch.zeros_like(places), 1
    while weight < flat:
        digit = (places // weight % _DIGIT).to(like.dtype).reshape(like.shape)
        seen = (unpack(digit).reshape(-1).float() - shift) / scale
        order += seen.round().long().clamp(0, _DIGIT - 1) * weight
        weight *= _DIGIT
    found = Packing(tuple(like.shape), order, scale, shift)
    _prove(found, unpack, like)
    return found


def _prove(found: Packing, unpack: Callable[[Any], Any], like: Any) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(like.shape, generator=random).to(like.device, like.dtype)
    if len(torch.unique(found.order)) != len(found.order):
        raise ValueError("this pipeline does not support images as input: it mixes its latents")
    if float((found.packed(unpack(x)) - x.float()).abs().max()) > _TOLERANCE * float(1 + x.float().abs().max()):
        raise ValueError("this pipeline does not support images as input: its packing is not linear")


def blended(inpainting: Inpainting, packing: Packing, calls: int) -> Blend:
    """Latent blending for a run of `calls` scheduler steps.

    See `inpainting.LatentBlender`.
    """
    latents = torch.from_numpy(inpainting.latents)
    source = packing.packed(latents.to(packing.order.device))
    mask = packing.placed(torch.from_numpy(inpainting.cells).expand(latents.shape))

    def blend(scheduler: Any, x: Any, first: Any, done: int) -> Any:
        kept = source.to(x.dtype)
        if done < calls:  # on a copy: the scheduler goes on where it is
            kept = noised(copy.copy(scheduler), kept, first, done).to(x.dtype)
        return torch.where(mask, x, kept)

    return blend
