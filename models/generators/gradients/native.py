"""Estimates of a native loop as images with gradients, and their moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from models.generators.families.base import NativeFamily
from models.generators.inpainting import unit_noise
from models.protocols import Latent
from models.protocols.steering import SteerRow
from models.runtime.placement import DevicePlacement


class NativeDifferentiable:
    """See `models.steering.gradients.DifferentiableDecoder`.

    A move of x0 by delta moves x by the solver's own weight on x0, `b / d` of its table. The moved x0 is also what
    later steps look back at.
    """

    def __init__(self, family: NativeFamily, vae: Any, placement: DevicePlacement) -> None:
        """`vae` is the decoder of previews."""
        self.placement = placement
        self._family = family
        self._vae = vae

    def prepare(self, width: int, height: int) -> None:
        """Every size that the family can decode is prepared."""

    def example(self, width: int, height: int) -> Any:
        """Unit noise in the shape of one latent."""
        return unit_noise(self._family.latent_shape(width, height), 0)[None].to(self.placement.device)

    def estimate(self, latent: Latent) -> Any:
        """The x0 of the last step, float32 (C, h, w)."""
        return latent.x0

    def images(self, x0: Any, width: int, height: int) -> Any:  # noqa: ARG002
        """Images of (B, C, h, w), as `NativeGenerator.decode` makes them of previews."""
        z = self._family.to_decoder(self._vae, x0)
        return self._family.decode(self._vae, z.to(self._vae.dtype)).float()

    def size(self, row: SteerRow) -> tuple[int, int]:
        """Width and height in pixels, from the latent's shape."""
        height, width = row.latent.x.shape[-2:]
        return width * self._family.factor, height * self._family.factor

    def movable(self, row: SteerRow) -> Any | None:
        """The cells of a row's inpainting mask."""
        inpainting = row.inputs.inpainting if row.inputs is not None else None
        return None if inpainting is None else torch.from_numpy(inpainting.cells).to(self.placement.device)

    def moved(self, row: SteerRow, delta: Any) -> Latent:
        """The latent with x0 and x moved."""
        latent = row.latent
        _, _, _, b, _, d, _, _ = (latent.schedule or row.schedule).table[row.call]
        return replace(latent, x=latent.x + float(b / d) * delta, x0=latent.x0 + delta)
