"""Policies: LoRA adapters in a denoiser that is itself never changed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from models.errors import ModelUnsupported
from models.generators.adapters import loading
from models.generators.gradients.training import NativeTrainable
from models.tuning.settings import TuningError, TuningSettings

TUNED, PREVIOUS, AVERAGE, BEST = "tuned", "previous", "average", "best"
"""The adapters: trained, sampling, average of the trained one, best average."""

NAMES = (TUNED, PREVIOUS, AVERAGE, BEST)

_ATTENTION = re.compile(r"\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)$")
_WIDE = re.compile(
    r"\.(proj_in|proj_out|proj_mlp|linear_in|linear_out|conv1|conv2|conv_shortcut|time_emb_proj"
    r"|(ff|ff_context|feed_forward|img_mlp|txt_mlp)\.(net\.0\.proj|net\.2|w1|w2|w3))$"
)


class Policies:
    """The adapters of one denoiser. Between calls `use` says which one is active."""

    def __init__(self, trainable: NativeTrainable, settings: TuningSettings) -> None:
        """Add equal adapters that change nothing yet.

        Raises ModelUnsupported without peft, and for a denoiser without known layers.
        """
        self._denoiser = trainable.denoiser
        self._scale = settings.alpha / settings.rank
        self._add(settings)
        for name in NAMES[1:]:
            self.copy(TUNED, name)
        self.use(None)

    def _add(self, settings: TuningSettings) -> None:
        try:
            from peft import LoraConfig
            from peft.tuners.tuners_utils import BaseTunerLayer
        except ImportError as error:
            raise ModelUnsupported("tuning needs the package peft: install frontrunner[tune]") from error
        targets = _targets(self._denoiser, settings)
        if not targets:
            raise ModelUnsupported(f"{type(self._denoiser).__name__} has no attention layers that adapters can change")
        config: dict[str, Any] = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": targets}
        with loading(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            for name in NAMES:
                self._denoiser.add_adapter(LoraConfig(**config), adapter_name=name)
        self._layers = [module for module in self._denoiser.modules() if isinstance(module, BaseTunerLayer)]
        for parameter in self._denoiser.parameters():
            parameter.requires_grad_(False)
        self._parameters = {name: self._find(name) for name in NAMES}
        for parameter in (each for found in self._parameters.values() for each in found.values()):
            parameter.data = parameter.data.float()

    def _find(self, name: str) -> dict[str, Any]:
        mark = f".{name}.weight"
        return {
            key.removesuffix(mark): parameter
            for key, parameter in self._denoiser.named_parameters()
            if key.endswith(mark) and ".lora_" in key
        }

    def use(self, name: str | None) -> None:
        """Activate an adapter; None for the base. Only the trained one has gradients."""
        for layer in self._layers:
            if name is not None:
                layer.set_adapter([name])
            layer.enable_adapters(name is not None)
        for parameters in self._parameters.values():
            for parameter in parameters.values():
                parameter.requires_grad_(False)
        if name == TUNED:
            for parameter in self.trained:
                parameter.requires_grad_(True)

    @property
    def trained(self) -> list[Any]:
        """The parameters that the optimizer changes, in a fixed order."""
        return list(self._parameters[TUNED].values())

    def copy(self, source: str, target: str) -> None:
        """Make an adapter equal to another."""
        self.blend(target, source, 0.0)

    def blend(self, target: str, source: str, decay: float) -> None:
        """Move an adapter towards another: `decay` of it stays."""
        with torch.no_grad():
            for key, kept in self._parameters[target].items():
                kept.copy_(decay * kept + (1 - decay) * self._parameters[source][key])

    def tensors(self, names: Iterable[str] = NAMES) -> dict[str, Any]:
        """Copies of the adapters on the host, for the state of a run."""
        return {
            f"{name}/{key}": parameter.detach().cpu().clone()
            for name in names
            for key, parameter in self._parameters[name].items()
        }

    def restore(self, tensors: dict[str, Any]) -> None:
        """Set the adapters from `tensors`. Raises TuningError for those of another model."""
        known = {f"{name}/{key}": each for name, found in self._parameters.items() for key, each in found.items()}
        shapes = {name: each.shape for name, each in known.items()}
        if {name: each.shape for name, each in tensors.items()} != shapes:
            raise TuningError("the state in --out is of another base or other adapters: use another folder")
        with torch.no_grad():
            for name, parameter in known.items():
                parameter.copy_(tensors[name])

    def export(self, name: str, dtype: Any) -> dict[str, Any]:
        """An adapter in the form of diffusers, for a weight of 1 at an alpha of the rank.

        Loaders that ignore LoRA's alpha so read it right.
        """
        made = {}
        for key, parameter in self._parameters[name].items():
            scale = self._scale if key.endswith("lora_B") else 1.0
            made[f"{key}.weight"] = (scale * parameter.detach()).to(dtype).cpu().contiguous()
        return made


def _targets(denoiser: Any, settings: TuningSettings) -> list[str]:
    """Full names of the layers that get adapters."""
    wanted = (_ATTENTION, _WIDE) if settings.layers == "wide" else (_ATTENTION,)
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, kinds)
        and getattr(module, "groups", 1) == 1
        and any(pattern.search(f".{name}") for pattern in wanted)
    ]
