"""Upscalers from model files that spandrel reads, such as ESRGAN.

Owns the choice of number format and the conversion of pixels. Tiles are the engine's.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ModelUnsupported
from models.protocols.upscaling import UpscalerInfo
from models.runtime.placement import FILE_ERRORS, DevicePlacement, fingerprint, memory_guard

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
"""Suffixes of the files that spandrel reads."""


class ModelFileUpscaler:
    """A feed-forward upscaler, see `models.protocols.upscaling.Upscaler`."""

    def __init__(self, file: Path, placement: DevicePlacement, tile: int) -> None:
        """Load a model file. `tile` is the longest side of one call, in pixels.

        Raises ModelUnsupported for a file of an unknown architecture, a damaged one, or a model that does not enlarge
        colour images, and OSError.
        """
        self._model = _loaded(file, placement)
        self._dtype = _number_format(self._model, placement)
        self._model.to(placement.device, self._dtype).eval()
        self._device = placement.device
        internal = self._model.tiling.name == "INTERNAL"
        self._info = UpscalerInfo(
            id=file.stem,
            revision=fingerprint(self._model.model),
            architecture=self._model.architecture.name,
            factor=self._model.scale,
            tile=0 if internal else tile,
            device=str(placement.device),
            dtype=str(self._dtype).removeprefix("torch."),
        )

    @property
    def info(self) -> UpscalerInfo:
        """Name and limits; constant."""
        return self._info

    def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:  # noqa: ARG002
        """One image (H, W, 3), enlarged. Raises `OutOfMemory`."""
        with memory_guard():
            pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self._device).permute(2, 0, 1)[None]
            enlarged = self._model(pixels.to(self._dtype) / 255)[0].float().clamp(0, 1)
            return np.asarray((enlarged * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _loaded(file: Path, placement: DevicePlacement) -> Any:
    try:
        import spandrel
    except ImportError as error:
        raise ModelUnsupported("upscaler files need spandrel; install frontrunner[upscale]") from error
    try:
        model = spandrel.ModelLoader(placement.device).load_from_file(file)
    except spandrel.UnsupportedModelError as error:
        raise ModelUnsupported("spandrel knows no architecture with these weights; use another file") from error
    except (*FILE_ERRORS, pickle.UnpicklingError, RuntimeError, KeyError, EOFError) as error:
        raise ModelUnsupported("the file is damaged or no model; download it again") from error
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.scale < 2:
        raise ModelUnsupported(f"a {model.architecture.name} of this kind does not enlarge images; use an upscaler")
    if (model.input_channels, model.output_channels) != (3, 3):
        raise ModelUnsupported("the upscaler does not take colour images; use one with three channels")
    return model


def _number_format(model: Any, placement: DevicePlacement) -> Any:
    """The placement's format where the architecture supports it, else float32."""
    supported = {torch.bfloat16: model.supports_bfloat16, torch.float16: model.supports_half}
    return placement.dtype if supported.get(placement.dtype, False) else torch.float32
