"""How much memory training takes, before it starts."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch

from models.generators.gradients.training import NativeTrainable
from models.protocols import Conditioning
from models.tuning.learning.policies import NAMES, TUNED, Policies
from models.tuning.sampling import Sampling
from models.tuning.settings import TuningError, TuningSettings

Texts: TypeAlias = tuple[Conditioning, Conditioning | None]
"""A prompt, and what guidance moves away from; None for unguided rows."""

_MEMINFO = Path("/proc/meminfo")
_OPTIMIZER = 3
"""Copies of the trained adapter: its gradient and two moments."""


def estimate_memory(
    trainable: NativeTrainable,
    policies: Policies,
    sampling: Sampling,
    texts: Texts,
    settings: TuningSettings,
) -> dict[str, int]:
    """Bytes of `weights`, `adapters`, `latents` and `activations`.

    The weights are loaded. The latents are those of an iteration. The activations are those of one row, counted in a
    forward pass, times the batch. With checkpointing they are a lower bound. Raises TuningError if the free memory is
    smaller.
    """
    denoiser, width, height = trainable.denoiser, sampling.width, sampling.height
    adapters = sum(each.nbytes for each in policies.trained)
    weights = sum(each.nbytes for each in denoiser.parameters()) - len(NAMES) * adapters
    row = _activations(trainable, policies, texts, (width, height), sampling)
    free = _free_bytes(trainable.placement.device)
    found = {
        "weights": weights,
        "adapters": (len(NAMES) + _OPTIMIZER) * adapters,
        "latents": settings.prompts * settings.candidates * 4 * prod(trainable.latent_shape(width, height)),
        "activations": min(settings.batch, settings.prompts * settings.candidates * settings.timesteps) * row,
    }
    needed = _OPTIMIZER * adapters + found["latents"] + found["activations"]
    if free is not None and needed > free:
        raise TuningError(
            f"training needs about {needed / 2**30:.1f} GiB beside the model, and {free / 2**30:.1f} GiB are free: "
            "use a smaller --batch, fewer --fields or --candidates, a smaller --rank or --checkpointing"
        )
    return found


def _activations(
    trainable: NativeTrainable, policies: Policies, texts: Texts, size: tuple[int, int], sampling: Sampling
) -> int:
    """Bytes that the backward pass of one row keeps; a guided row has two entries."""
    kept = dict[tuple[int, int], int]()
    own = {each.data_ptr() for each in trainable.denoiser.parameters()}

    def count(tensor: Any) -> Any:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr(), tensor.nbytes] = tensor.nbytes
        alive.append(tensor)  # else its address could be used twice
        return tensor

    alive = list[Any]()
    device = trainable.placement.device
    x = torch.zeros(1, *trainable.latent_shape(*size), device=device)
    t = torch.tensor(sampling.schedule.table[:1, 0], dtype=torch.float32, device=device)
    policies.use(TUNED)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        trainable.predict(x, t, torch.full_like(t, sampling.guidance), texts[:1], texts[1:])
    policies.use(None)
    return sum(kept.values())


def _free_bytes(device: Any) -> int | None:
    """Free memory of a device; None if it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    return next((1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:"), None)
