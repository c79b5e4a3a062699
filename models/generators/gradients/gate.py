"""Estimates of a gated pipeline as images with gradients, and their moves.

The pipeline's own packing and decoder call are used; its scheduler has no table, so its weight on x0 is fitted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from models.generators.gate.calls import Call
from models.generators.gate.latents import GateLatent
from models.generators.gate.packing import Packing
from models.protocols.steering import SteerRow
from models.runtime.placement import DevicePlacement

_CACHED = 16
"""Sizes whose way to the decoder is remembered."""

_TOLERANCE = 1e-2
"""Relative error of a fit from which the estimate before the last is used as well."""


class GateDifferentiable:
    """See `models.steering.gradients.DifferentiableDecoder`."""

    def __init__(
        self,
        decoder_call: Callable[[int, int], Call],
        packing: Callable[[int, int], Packing],
        placement: DevicePlacement,
    ) -> None:
        """`decoder_call` makes the call that decodes one image of a size in pixels."""
        self.placement = placement
        self._decoder_call = decoder_call
        self._packing = packing
        self._way = lru_cache(_CACHED)(self._find_way)

    def prepare(self, width: int, height: int) -> None:
        """Find packing and decoder call.

        Raises ValueError for a packing that is not one to one.
        """
        self._way(width, height)

    def example(self, width: int, height: int) -> Any:
        """Unit noise in the shape of one sample."""
        _, packing = self._way(width, height)
        shape = packing.shape
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))[None].to(self.placement.device)

    def estimate(self, latent: GateLatent) -> Any:
        """The x0 of the last step in the pipeline's packing, float32."""
        assert latent.x0 is not None
        return latent.x0.float()

    def images(self, x0: Any, width: int, height: int) -> Any:
        """Images of estimates (B, ...), by the pipeline's own decoder."""
        call, packing = self._way(width, height)
        name, own = next(iter(call.bound.arguments.items()))
        z = packing.scale * x0.flatten(1)[:, packing.order] + packing.shift
        bound = inspect.BoundArguments(call.bound.signature, call.bound.arguments.copy())
        bound.arguments[name] = z.reshape(len(x0), *own.shape[1:]).to(own.dtype)
        image = call.function(*bound.args, **bound.kwargs)
        image = image[0] if isinstance(image, tuple) else image.sample
        return (image[:, :, 0] if image.ndim == 5 else image).float()

    def size(self, row: SteerRow) -> tuple[int, int]:
        """Width and height in pixels."""
        return row.latent.width, row.latent.height

    def movable(self, row: SteerRow) -> Any | None:
        """The cells of a row's inpainting mask, in the places of the sample."""
        inpainting = row.inputs.inpainting if row.inputs is not None else None
        if inpainting is None:
            return None
        cells = torch.from_numpy(inpainting.cells).expand(inpainting.latents.shape)
        _, packing = self._way(*self.size(row))
        return packing.placed(cells)

    def moved(self, row: SteerRow, delta: Any) -> GateLatent:
        """The latent with x0 and x moved; its run continues from there."""
        latent: GateLatent = row.latent
        assert latent.x is not None
        assert latent.x0 is not None
        x = latent.x + (solver_weight(latent) * delta).to(latent.x.dtype)
        moved = replace(latent, x=x, x0=latent.x0 + delta.to(latent.x0.dtype), z=None, z0=None, moved=True)
        if latent.memory is not None:
            moved.memory = latent.memory.with_moved_estimate(latent.x0, moved.x0)
        return moved

    def _find_way(self, width: int, height: int) -> tuple[Call, Packing]:
        """The decoder call and the packing of a size.

        Pipelines run without gradients, and parked ones leave torch's modes changed.
        """
        with torch.inference_mode():
            call, found = self._decoder_call(width, height), self._packing(width, height)
        order, scale, shift = (each.clone() for each in (found.order, found.scale, found.shift))
        return call, Packing(found.shape, order, scale, shift)


def solver_weight(latent: GateLatent) -> float:
    """The weight of x0 in the last step's result, in 0..1, by least squares.

    The result of a solver is a sum of the state before the step, the estimate, and in some solvers the estimate before
    it. Drawn noise is independent of them. 0 without a state before the step.
    """
    if latent.before is None or latent.x is None or latent.x0 is None:
        return 0.0
    parts = [latent.x0, latent.before]
    weights, error = _fitted(parts, latent.x)
    if error > _TOLERANCE and latent.x0_before is not None:
        weights, _ = _fitted([*parts, latent.x0_before], latent.x)
    weight = float(weights[0])
    return min(1.0, max(0.0, weight)) if weight == weight else 0.0


def _fitted(parts: list[Any], result: Any) -> tuple[Any, float]:
    """Least-squares weights of the parts, and the relative error."""
    known = torch.stack([part.flatten() for part in parts], dim=1).double().cpu()
    wanted = result.flatten().double().cpu()
    weights = torch.linalg.lstsq(known, wanted[:, None]).solution[:, 0]
    return weights, float((known @ weights - wanted).norm() / wanted.norm().clamp(min=1e-12))
