"""A stock pipeline, prepared to run many times at once.

Its models are behind proxies, its text encodings cached. Owns how a request becomes arguments of the pipeline's
`__call__`, for standard and modular pipelines, and what a run remembers between two steps. Knows no batch.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.errors import ModelUnsupported
from models.generators.gate.calls import Call
from models.generators.gate.runs import (
    Finished,
    GatedControl,
    GatedDecoder,
    GatedModule,
    RememberedEncoder,
    Run,
    park,
    plain_key,
)
from models.generators.gate.scheduler_proxy import Blend, StepForm, WatchedScheduler, memory, moved_estimate, recall
from models.generators.pipeline_facts import call_defaults
from models.protocols.image_inputs import ImageInputs, Inpainting
from models.runtime.remembered import Remembered
from models.runtime.seeding import cpu_generator

_GUIDERS = ("guider", "ocr_guider")
_GUIDANCE_NAMES = ("guidance_scale", "true_cfg_scale", "distilled_guidance_scale")
_UNASKED = {"use_resolution_binning": False}
"""Arguments that keep the requested size exact."""


@dataclass(frozen=True, slots=True)
class Request:
    """The inputs of one candidate. Sizes in pixels.

    `negative` None leaves it to the pipeline. `inputs` are compared by identity.
    """

    prompt: str
    negative: str | None
    guidance: float
    steps: int
    width: int
    height: int
    seed: int
    inputs: ImageInputs | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a run remembers between two steps, besides its sample."""

    scheduler: Mapping[str, Any]
    random: Any
    guiders: tuple[Any, ...]

    def with_moved_estimate(self, before: Any, after: Any) -> Memory:
        """This memory with x0 `after` in place of `before`, see `moved_estimate`."""
        return replace(self, scheduler=moved_estimate(self.scheduler, before, after))


class CandidateRun(Run):
    """A run for one request, with its own scheduler and random generator."""

    def __init__(self, work: Callable[[], Any], scheduler: WatchedScheduler, random: Any, guiders: tuple[Any, ...]):
        super().__init__(work)
        self.scheduler = scheduler
        self._random = random
        self._guiders = guiders

    @property
    def skipping(self) -> bool:
        """Whether the next step is skipped and its denoiser calls are not made."""
        return self.scheduler.skipping

    def memory(self) -> Memory:
        """The state to restore when another run continues from here."""
        return Memory(memory(self.scheduler._own), self._random.get_state(), copy.deepcopy(self._guiders))

    def recall(self, remembered: Memory) -> None:
        """Continue as the run with this memory would."""
        recall(self.scheduler._own, remembered.scheduler)
        self._random.set_state(remembered.random)
        for own, other in zip(self._guiders, copy.deepcopy(remembered.guiders), strict=True):
            vars(own).update(vars(other))


class Stage:
    """A pipeline whose `run` starts greenlets of its unmodified `__call__`.

    The given pipeline is not changed.
    """

    def __init__(
        self,
        pipe: Any,
        arguments: Mapping[str, Any] | None = None,
        context: Callable[[], Hashable] = lambda: None,
        control_modes: Sequence[int | None] = (),
    ) -> None:
        """`context` is what text encodings depend on besides their texts.

        `control_modes` select the kinds of unions among the ControlNets, one for each control image.
        """
        self._context = context
        self._control_modes = control_modes
        self._given = dict(arguments or {})
        self.pipe = pipe
        self.modular = not hasattr(pipe, "register_modules")
        self.components: dict[str, Any] = {name: each for name, each in pipe.components.items() if each is not None}
        self.names = _argument_names(pipe, self.modular)
        self.defaults = _defaults(pipe, self.modular) | self._given
        self._pipe = copy.copy(pipe)
        vars(self._pipe).update({name: _behind(name, each, context) for name, each in self.components.items()})
        vars(self._pipe).update(maybe_free_model_hooks=lambda: None, _progress_bar_config={"disable": True})
        if self.modular:
            _silence(pipe._blocks)
        self.form = StepForm()
        self.guidance_name = self._guidance_name()
        self._texts = Remembered()

    @property
    def modules(self) -> list[Any]:
        """The pipeline's models."""
        return [each for each in self.components.values() if isinstance(each, torch.nn.Module)]

    def run(
        self,
        request: Request,
        skip: int = 0,
        enter: Callable[[CandidateRun, Any, Any], Any] | None = None,
        blend: Blend | None = None,
    ) -> CandidateRun:
        """A run for this request, not started yet.

        Its first `skip` scheduler steps are not made. The sample after them is `enter(run, scheduler, first_sample)`.
        See `WatchedScheduler` for `blend`.
        """
        pipe = copy.copy(self._pipe)
        made: list[weakref.ref[CandidateRun]] = []  # weak, so that a dropped run is freed at once

        def begin(own: Any, first: Any) -> Any:
            run = made[0]()
            return first if enter is None or run is None else enter(run, own, first)

        scheduler = WatchedScheduler(
            self.components["scheduler"], park, self.form, skip, begin if enter else None, blend
        )
        guiders = tuple(copy.deepcopy(self.components[name]) for name in _GUIDERS if name in self.components)
        named = dict(zip((name for name in _GUIDERS if name in self.components), guiders, strict=True))
        vars(pipe).update(scheduler=scheduler, **named)
        if hasattr(pipe, "encode_prompt"):
            vars(pipe)["encode_prompt"] = self._remembered(pipe)
        random = cpu_generator(request.seed)
        arguments = self._arguments(request, random)
        if self.guidance_name is None:
            for guider in guiders:
                guider.guidance_scale = _of_guider(guider, request.guidance)
        run = CandidateRun(lambda: pipe(**arguments), scheduler, random, guiders)
        made.append(weakref.ref(run))
        return run

    @property
    def decoder(self) -> Any:
        """The autoencoder. Raises ModelUnsupported if there is none."""
        modules = (each for each in self.components.values() if isinstance(each, torch.nn.Module))
        found = next((each for each in modules if hasattr(each, "decode")), None)
        if found is None:
            raise ModelUnsupported("the pipeline has no autoencoder; use a latent diffusion model")
        return found

    @property
    def reads_negative(self) -> bool:
        """Whether the pipeline takes a negative prompt."""
        return "negative_prompt" in self.names

    def _arguments(self, request: Request, random: Any) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "prompt": request.prompt,
            "num_inference_steps": request.steps,
            "width": request.width,
            "height": request.height,
            "generator": random,
        }
        if self.guidance_name is not None:
            wanted[self.guidance_name] = request.guidance
        if request.negative is not None and self.reads_negative:
            wanted["negative_prompt"] = request.negative
        wanted |= {name: value for name, value in _UNASKED.items() if name in self.names}
        wanted |= self._images(request)
        return {**wanted, **self._given, **({"output": "images"} if self.modular else {})}

    @property
    def inpaints(self) -> bool:
        """Whether the pipeline takes a mask of its own."""
        return "mask_image" in self.names

    def _images(self, request: Request) -> dict[str, Any]:
        """Source, mask and control images, as far as the pipeline takes them."""
        inputs = request.inputs or ImageInputs()
        if self.inpaints:
            return _masked(inputs.inpainting, (request.width, request.height))
        if "controlnet" not in self.components:
            return {}
        named: dict[str, list[Any]] = {
            "control_image" if "control_image" in self.names else "image": [
                Image.fromarray(control.image) for control in inputs.effective
            ],
            "controlnet_conditioning_scale": [control.weight for control in inputs.effective],
        }
        if any(mode is not None for mode in self._control_modes):
            named["control_mode"] = list(self._control_modes)
        return {name: values[0] if len(values) == 1 else values for name, values in named.items()}

    def _guidance_name(self) -> str | None:
        """The argument with the main guidance scale; None if guider objects hold it."""
        named = [name for name in _GUIDANCE_NAMES if name in self.names]
        embeds = any(_embeds_guidance(each) for each in self.components.values())
        if named == ["distilled_guidance_scale"] and not embeds:
            return None
        return next((name for name in named if self.defaults.get(name) is not None), named[0] if named else None)

    def _remembered(self, pipe: Any) -> Callable[..., Any]:
        """`encode_prompt` of this pipeline, cached by texts and settings."""
        encode = type(pipe).encode_prompt

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            settings = {k: v for k, v in vars(pipe).items() if isinstance(v, int | float | bool | str)}
            key = plain_key((args, kwargs, settings), self._context())
            return _copied(self._texts(key, lambda: encode(pipe, *args, **kwargs)))

        return encode_prompt


def _masked(inpainting: Inpainting | None, size: tuple[int, int]) -> dict[str, Any]:
    """Arguments of an inpainting pipeline.

    Without a mask, all of a grey image is redrawn.
    """
    if inpainting is None:
        source, mask = Image.new("RGB", size, (128, 128, 128)), Image.new("L", size, 255)
    else:
        source, mask = Image.fromarray(inpainting.source), Image.fromarray(inpainting.mask.astype(np.uint8) * 255)
    return {"image": source, "mask_image": mask, "strength": 1.0}


def pictures(finished: Finished) -> NDArray[np.uint8]:
    """The images of a finished run, uint8 (B, H, W, 3)."""
    result = finished.result
    for name in ("images", "image"):
        result = getattr(result, name, result)
    if isinstance(result, tuple):
        result = result[0]
    return np.stack([np.asarray(picture.convert("RGB")) for picture in result])


def decoder_of(event: Any) -> bool:
    """Whether a run waits for its autoencoder, not for its denoiser."""
    return isinstance(event, Call) and getattr(event.function, "__name__", "") == "decode"


def _behind(name: str, component: Any, context: Callable[[], Hashable]) -> Any:
    """A model behind its proxy; schedulers, tokenizers and guiders unchanged."""
    if not isinstance(component, torch.nn.Module):
        return component
    if hasattr(component, "decode"):
        return GatedDecoder(component)
    if name == "controlnet":
        return GatedControl(component)
    if "encoder" in name or "checker" in name:
        return RememberedEncoder(component, context)
    return GatedModule(component)


def _argument_names(pipe: Any, modular: bool) -> frozenset[str]:
    if modular:
        return frozenset(each.name for each in pipe.blocks.inputs if each.name)
    return frozenset(inspect.signature(pipe.__call__).parameters)


def _defaults(pipe: Any, modular: bool) -> dict[str, Any]:
    if modular:
        return {each.name: each.default for each in pipe.blocks.inputs if each.name}
    return call_defaults(pipe)


def _silence(blocks: Any) -> None:
    """Disable the progress bars, which modular pipelines keep in their blocks."""
    for block in getattr(blocks, "sub_blocks", {}).values():
        vars(block)["_progress_bar_config"] = {"disable": True}
        _silence(block)


def _embeds_guidance(component: Any) -> bool:
    config = getattr(component, "config", None)
    return bool(getattr(config, "guidance_embeds", False)) if isinstance(component, torch.nn.Module) else False


def _of_guider(guider: Any, guidance: float) -> float:
    """The scale for a guider, which below 1 moves to the negative prompt.

    The original formulation counts from 0.
    """
    return guidance if getattr(guider, "use_original_formulation", False) else max(1.0, guidance)


def _copied(value: Any) -> Any:
    """Copies of containers, with shared tensors."""
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    return dict(value) if type(value) is dict else value
