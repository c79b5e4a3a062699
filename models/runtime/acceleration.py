"""Memory and speed by what diffusers, torchao and bitsandbytes offer.

Owns quantisation, offload, compilation and attention backends of loaded pipelines, and the errors of what is missing.
Nothing falls back silently: an option that cannot be applied is refused.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Collection, Mapping
from typing import Any

import diffusers
import torch
import transformers

from models.errors import ModelUnsupported
from models.load_options import LoadOptions
from models.runtime.placement import DevicePlacement, fingerprint

DENOISERS = ("transformer", "unet", "transformer_2", "unconditional_transformer")
"""Parts that make predictions."""

_EXTRA = "install frontrunner[quantize]"


def load_arguments(options: LoadOptions, placement: DevicePlacement, parts: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantise while weights are read.

    `parts` maps the names of the pipeline's models to their libraries. Raises ModelUnsupported.
    """
    if not options.quantization.startswith("bitsandbytes"):
        return {}
    _require("bitsandbytes", options.quantization)
    if placement.on_cpu:
        raise ModelUnsupported(f"quantization {options.quantization} needs a GPU; use torchao-int8 on a CPU")
    four = options.quantization.endswith("nf4")
    chosen = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": placement.dtype}
    configs = {"diffusers": diffusers.BitsAndBytesConfig, "transformers": transformers.BitsAndBytesConfig}
    mapping = {
        name: configs[parts[name]](**(chosen if four else {"load_in_8bit": True}))
        for name in _chosen(options, parts)
        if parts[name] in configs
    }
    return {"quantization_config": diffusers.PipelineQuantizationConfig(quant_mapping=mapping)}


def apply(pipe: Any, options: LoadOptions, placement: DevicePlacement, shared: Collection[str] = ()) -> str | None:
    """Quantise, compile, choose attention, and place a pipeline from host memory.

    Parts that are `shared` with other models are not quantised. Returns the revision of changed weights, None for
    unchanged ones. Raises ModelUnsupported for an option that the pipeline, the device or the installation does not
    support.
    """
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    denoisers = [modules[name] for name in DENOISERS if name in modules]
    for module in modules.values():
        if getattr(module, "is_cache_enabled", False):
            raise ModelUnsupported("the model has a cache enabled, which rows cannot share; disable it")
    if options.quantization.startswith("torchao"):
        own = {name: module for name, module in modules.items() if name not in shared}
        _quantize(options, {name: own[name] for name in _chosen(options, own)}, placement)
    if options.attention:
        _set_attention(denoisers, options.attention)
    if options.compile:
        _compile(denoisers, placement)
    revision = fingerprint(*modules.values()) if options.changes_modules else None
    if options.offload == "none":
        pipe.to(placement.device)
    else:
        _offload(pipe, options.offload, placement)
    return revision


def _chosen(options: LoadOptions, parts: Mapping[str, Any]) -> list[str]:
    """Names of the parts to quantise."""
    unknown = [name for name in options.quantized_parts if name not in parts]
    if unknown:
        known = ", ".join(parts)
        raise ModelUnsupported(f"the model has no part {unknown[0]!r} to quantise; use some of {known}")
    named = [name for name in parts if name in DENOISERS or name.startswith("text_encoder")]
    return list(options.quantized_parts) or named


def _require(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModelUnsupported(f"quantization {option} needs {package}; {_EXTRA}")


def _quantize(options: LoadOptions, modules: Mapping[str, Any], placement: DevicePlacement) -> None:
    """Quantise the weights of linear layers by torchao, in host memory."""
    _require("torchao", options.quantization)
    from torchao import quantization as ao

    configs = {
        "torchao-int8": ao.Int8WeightOnlyConfig,
        "torchao-int4": ao.Int4WeightOnlyConfig,
        "torchao-float8": ao.Float8WeightOnlyConfig,
    }
    for name, module in modules.items():
        try:
            ao.quantize_(module, configs[options.quantization](), device=placement.device)
        except (ImportError, RuntimeError, NotImplementedError, ValueError, AssertionError) as error:
            raise ModelUnsupported(
                f"quantization {options.quantization} is not possible for {name} on {placement.device}: {error}"
            ) from error


def _set_attention(denoisers: list[Any], backend: str) -> None:
    for denoiser in denoisers:
        try:
            denoiser.set_attention_backend(backend)
        except (AttributeError, ImportError, RuntimeError, ValueError) as error:
            raise ModelUnsupported(f"attention backend {backend!r}: {error}") from error
        processors = (getattr(each, "processor", None) for each in denoiser.modules())
        if not any(getattr(each, "_attention_backend", None) == backend for each in processors):
            raise ModelUnsupported(f"a {type(denoiser).__name__} has no choice of attention; omit the backend")


def _compile(denoisers: list[Any], placement: DevicePlacement) -> None:
    if placement.on_cpu and not shutil.which(os.environ.get("CXX", "g++")):
        raise ModelUnsupported("compiling for a CPU needs a C++ compiler; install g++ or set CXX")
    if placement.device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ModelUnsupported("compiling for CUDA needs triton; install it")
    for denoiser in denoisers:
        try:
            denoiser.compile_repeated_blocks()
        except (AttributeError, ValueError) as error:
            raise ModelUnsupported(f"a {type(denoiser).__name__} has no repeated blocks to compile") from error


def _offload(pipe: Any, kind: str, placement: DevicePlacement) -> None:
    if placement.on_cpu:
        raise ModelUnsupported("offload moves weights to a GPU when they are used; the device cpu has none")
    name = f"enable_{kind}_cpu_offload"
    if not hasattr(pipe, name):
        raise ModelUnsupported(f"a {type(pipe).__name__} has no {kind} offload; use none")
    try:
        getattr(pipe, name)(device=placement.device)
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelUnsupported(f"{kind} offload is not possible: {error}") from error
    if kind == "model":
        _one_at_a_time(pipe._all_hooks)


def _one_at_a_time(hooks: list[Any]) -> None:
    """Let each model's hook offload all others.

    diffusers offloads the previous model of its own order only; here text encoders, denoiser and decoder alternate.
    Weights that move in torch's inference mode could have no gradients later, for steering, so they move outside of it.
    """
    from accelerate.hooks import UserCpuOffloadHook

    class Others(UserCpuOffloadHook):
        """The hooks of all models but one; the one on the device stands for them."""

        def __init__(self, own: Any) -> None:
            self._others = [each for each in hooks if each is not own]

        @property
        def model(self) -> Any:
            """A model on the device, if there is one."""
            return next((each.model for each in self._others if _on_device(each.model)), self._others[0].model)

        def offload(self) -> None:
            """Move all of them to host memory."""
            for each in self._others:
                if _on_device(each.model):
                    each.offload()

    for hook in hooks:
        hook.hook.pre_forward = torch.inference_mode(False)(hook.hook.pre_forward)
        if len(hooks) > 1:
            hook.hook.prev_module_hook = Others(hook)


def _on_device(model: Any) -> bool:
    return bool(next(model.parameters()).device.type != "cpu")
