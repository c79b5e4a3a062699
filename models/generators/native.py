"""Pipelines of diffusers with a native loop as a `StepwiseGenerator`.

diffusers loads, encodes and decodes; Frontrunner makes the steps. Owns the batch of one denoiser call, the update of
its rows, and decoding. What differs between pipelines is in `families`, texts are in `prompt_encoding`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.generators.adapters import Adapters
from models.generators.families import FAMILIES
from models.generators.families.base import NativeFamily
from models.generators.gradients.native import NativeDifferentiable
from models.generators.gradients.training import NativeTrainable
from models.generators.inpainting import LatentBlender, unit_noise
from models.generators.prompt_encoding import PromptEncoder
from models.loras import Lora
from models.protocols import Conditioning, GeneratorInfo, Images, Latent, LongPrompts, Pixels, Schedule, StepRow
from models.protocols.portable import LatentState, present
from models.protocols.readings import ReadText, encode_as_read, read_as_is
from models.protocols.styles import Styles
from models.runtime.placement import DevicePlacement, fingerprint, memory_guard

_SIZE_MULTIPLE = 8


@dataclass(frozen=True, slots=True, eq=False)
class TorchLatent:
    """A candidate between two steps, on the device.

    `x` and `x0` are float32 (C, h, w); `guidance_gap` is a scalar. Solvers that look back further also need the state
    before the last step, and the x0 before `x0`. `schedule` replaces that of the row, for candidates that started from
    an image.
    """

    TENSORS: ClassVar = ("x", "x0", "guidance_gap", "x_before", "x0_before")

    x: Any
    x0: Any | None = None
    guidance_gap: Any | None = None
    x_before: Any | None = None
    x0_before: Any | None = None
    schedule: Schedule | None = None


class NativeGenerator:
    """A pipeline whose rows may differ in step, sampler, prompt and guidance.

    See `models.protocols.StepwiseGenerator`.
    """

    def __init__(
        self,
        pipe: Any,
        placement: DevicePlacement,
        *,
        id: str,
        revision: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        preview_decoder: Any | None = None,
        arguments: Mapping[str, Any] | None = None,
        adapters: Adapters | None = None,
        long_prompts: LongPrompts = "truncate",
        read: ReadText = read_as_is,
        styles: Styles | None = None,
    ) -> None:
        """Take a loaded pipeline of one of `families.FAMILIES`.

        `defaults` may hold `steps`, `guidance_scale`, `sampler`, `width` and `height`. `preview_decoder` is an
        AutoencoderTiny of the same latent space. `arguments` are passed to each call of the pipeline. `adapters` are
        those of this pipeline. `long_prompts` is what becomes of texts above the token limit, `read` says what is
        encoded instead of a text, `styles` are those of `info`. Raises ModelUnsupported for a pipeline that its family
        cannot make.
        """
        self._placement = placement
        self._family = _family_of(pipe)(pipe, placement, arguments or {}, defaults or {})
        self._long_prompts: LongPrompts = long_prompts
        if long_prompts == "chunks":
            self._family.read_in_chunks()
        vae = pipe.vae
        if placement.dtype == torch.float16 and vae.config.get("force_upcast"):
            vae.to(torch.float32)
        tiny = preview_decoder or vae
        for module in (self._family.denoiser, vae, tiny):
            self._family.prepare(module)
        denoise = self._family.denoise
        self._denoiser = placement.traced(denoise) if self._family.traceable else denoise
        self._adapters = adapters or Adapters(pipe, None)
        self._vae, self._preview_decoder = vae, tiny
        self._encoded = partial(self._family.encode, vae)
        self._decoded = self._decoder(vae)
        self._previewed = self._decoder(tiny) if preview_decoder else self._decoded
        self._blend = LatentBlender(placement.device)
        self._texts, self._read = PromptEncoder(self._family, placement), read
        self._info = replace(self._describe(id, revision, defaults or {}), styles=styles)

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        return self._info

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        """Encode texts for the denoiser, in order, with a cache."""
        loras = self._adapters.active
        return encode_as_read(texts, self._read, lambda understood: self._texts(understood, negative, loras))

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        """The table of a sampler, cached. Raises ValueError for unsupported arguments."""
        multiple = self._info.size_multiple
        if width % multiple or height % multiple:
            raise ValueError(f"width and height must be multiples of {multiple}, not {width} x {height}")
        return self._family.schedules(sampler, steps, width, height)

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> TorchLatent:
        """The first state: the stock pipeline's noise times the schedule's scale.

        That noise is drawn from a CPU generator of this seed. Width and height in pixels, multiples of
        `info.size_multiple`.
        """
        unit = unit_noise(self._family.latent_shape(width, height), seed)
        return TorchLatent((unit * schedule.noise_scale).to(self._placement.device))

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> TorchLatent:
        """Latents and noise, mixed as in the stock image-to-image pipeline.

        The noise is drawn from a CPU generator of this seed.
        """
        signal, scale = (float(weight) for weight in schedule.entry[start])
        unit = unit_noise(array.shape, seed)
        latent = torch.from_numpy(array.astype(np.float32))
        begun = self._family.schedules.begun(schedule, start)
        x = (signal * latent + scale * unit).to(self._placement.device)
        return TorchLatent(x, schedule=None if begun is schedule else begun)

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """Images as latents: the mode of their distribution. Raises `OutOfMemory`."""
        with memory_guard():
            image = torch.from_numpy(pixels).to(self._placement.device).permute(0, 3, 1, 2).to(self._vae.dtype)
            mode = self._shared(self._encoded, image / 127.5 - 1.0)
            return np.asarray(self._family.from_encoder(mode.float()).to(torch.float16).cpu().numpy())

    def adapt(self, loras: tuple[Lora, ...]) -> None:
        """Use these adapters in the next calls of `encode` and `step`."""
        with memory_guard():
            self._adapters.use(loras)

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        """One denoiser call for rows of one latent shape.

        Texts of unequal lengths, such as prompts and negatives, make one call per length. The batch is padded to `size`
        by repeating the last row. The bits of a row depend on `size` and on the number of guided rows, not on the other
        rows' contents. The update is float32, whatever the denoiser's type. Raises `OutOfMemory`, and ValueError for no
        rows or more than `size`.
        """
        if not 0 < len(rows) <= size:
            raise ValueError(f"{len(rows)} rows cannot be padded to {size}; pass 1 to `size` rows")
        with memory_guard(self._placement):
            padded = [*rows, *[rows[-1]] * (size - len(rows))]
            x = torch.stack([row.latent.x for row in padded])
            table = np.stack([_schedule(row).table[row.step] for row in padded])
            t, c_in, a, b, c, d, h, s = self._on_device(table.T)
            output, gaps = self._denoise(padded, _column(c_in) * x, t)
            x0 = _column(c) * x + _column(d) * output
            after = _column(a) * x + _column(b) * output
            if table[:, 6].any():
                after = after + _column(h) * _history(padded, x0)
            if table[:, 7].any():
                after = after + _column(s) * _ancestral_noise(padded, table[:, 7]).to(x.device)
            after = self._blend(rows, _look_back(padded, after, x0))
            return [_kept(row, TorchLatent(after[i], x0[i], gaps[i])) for i, row in enumerate(rows)]

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """Root mean square of the last guidance difference, float32 (B,).

        Zero for rows that were unguided or made no step.
        """
        still = torch.zeros((), device=self._placement.device)
        pulled = torch.stack([still if latent.guidance_gap is None else latent.guidance_gap for latent in latents])
        return np.asarray(pulled.cpu().numpy())

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Pixels:
        """Latents of one shape as pixels, uint8 (B, H, W, 3) on the device.

        Rounds as diffusers does. `preview` decodes the x0 estimate, with the preview decoder if there is one. Raises
        `OutOfMemory`.
        """
        vae = self._preview_decoder if preview else self._vae
        with memory_guard():
            z = self._family.to_decoder(vae, torch.stack([_side(latent, preview) for latent in latents]))
            image = self._shared(self._previewed if preview else self._decoded, z.to(vae.dtype)).float()
            levels = ((image * 0.5 + 0.5).clamp(0, 1) * 255).round()
            return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def differentiable(self) -> NativeDifferentiable:
        """The way to images with gradients, through the preview decoder if there is one."""
        return NativeDifferentiable(self._family, self._preview_decoder, self._placement)

    def trainable(self) -> NativeTrainable:
        """The denoiser for training; its calls are no longer traced."""
        self._denoiser = self._family.denoise
        return NativeTrainable(self._family, self._placement)

    def dump(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.float16]:
        """Host copy for storage: float16 (B, C, h, w). `preview` takes the x0 estimate."""
        with memory_guard():
            stacked = torch.stack([_side(latent, preview) for latent in latents])
            return np.asarray(stacked.to(torch.float16).cpu().numpy())

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Finished latents from arrays of `dump`, for `decode`."""
        with memory_guard():
            stacked = torch.from_numpy(np.ascontiguousarray(arrays)).to(self._placement.device, torch.float32)
            return [TorchLatent(x, x) for x in stacked]

    def export(self, latents: Sequence[Latent]) -> list[LatentState]:
        """See `PortableLatents`."""
        with memory_guard():
            return [
                present(**{name: _host(getattr(latent, name)) for name in TorchLatent.TENSORS}) for latent in latents
            ]

    def restore(self, states: Sequence[LatentState], schedule: Schedule, start: int) -> list[Latent]:
        """See `PortableLatents`."""
        begun = self._family.schedules.begun(schedule, start) if start else schedule
        own = None if begun is schedule else begun
        device = self._placement.device
        with memory_guard():
            moved = [{name: torch.from_numpy(array.copy()).to(device) for name, array in s.items()} for s in states]
            return [TorchLatent(**tensors, schedule=own) for tensors in moved]

    def _denoise(self, rows: Sequence[StepRow], scaled: Any, t: Any) -> tuple[Any, Any]:
        """The denoiser's output, float32 (rows, C, h, w), and guidance gaps, (rows,)."""
        negatives = [self._negative(row) for row in rows]
        guided = [index for index, state in enumerate(negatives) if state is not None]
        texts = [row.prompt.state for row in rows] + [negatives[index] for index in guided]
        scales = self._on_device(np.array([row.guidance_scale for row in rows]))
        output = self._predict([*range(len(rows)), *guided], texts, scaled, t, scales)
        gaps = torch.zeros(len(rows), device=output.device)
        if not guided:
            return output, gaps
        positive, negative = output[: len(rows)], output[len(rows) :]
        gaps[guided] = (positive[guided] - negative).square().mean(dim=(1, 2, 3)).sqrt()
        positive[guided] = self._family.combine(positive[guided], negative, _column(scales[guided]))
        return positive, gaps

    def _negative(self, row: StepRow) -> Any | None:
        """The encoding that guidance moves away from; None for an unguided row."""
        if not self._info.is_guided(row.guidance_scale):
            return None
        return (row.negative or self.encode([""], negative=True)[0]).state

    def _predict(self, places: Sequence[int], texts: Sequence[Any], scaled: Any, t: Any, scales: Any) -> Any:
        """Predictions for entries, float32 (entries, C, h, w).

        Entry i is row `places[i]` with `texts[i]`. Entries whose texts have equal shapes share a call.
        """
        denoise = self._family.denoise if self._adapters.active else self._denoiser  # traces hold the bare weights
        groups: dict[Any, list[int]] = {}
        for index, text in enumerate(texts):
            groups.setdefault(tuple(each.shape for each in text), []).append(index)
        predicted: dict[int, Any] = {}
        for group in groups.values():
            rows = [places[index] for index in group]
            stacked = [torch.stack(each) for each in zip(*(texts[index] for index in group), strict=True)]
            x = scaled[rows].to(self._placement.dtype)
            output = self._placement.parallel(denoise, x, t[rows], scales[rows], *stacked).float()
            if len(groups) == 1:
                return output
            predicted |= zip(group, output, strict=True)
        return torch.stack([predicted[index] for index in range(len(texts))])

    def _decoder(self, vae: Any) -> Any:
        decode = partial(self._family.decode, vae)
        return self._placement.traced(decode) if self._family.shares_decoder else decode

    def _shared(self, work: Any, batch: Any) -> Any:
        """A call of an autoencoder, shared among cores if it may be."""
        return self._placement.parallel(work, batch, min_rows=1 if self._family.shares_decoder else len(batch))

    def _on_device(self, values: NDArray[np.float64]) -> Any:
        return torch.from_numpy(values.astype(np.float32)).to(self._placement.device)

    def _describe(self, id: str, revision: str | None, defaults: Mapping[str, Any]) -> GeneratorInfo:
        family = self._family
        schedules = family.schedules
        width, height = family.size
        usual = family.usual(id, defaults)
        return GeneratorInfo(
            id=id,
            revision=self._revision(revision),
            width=width,
            height=height,
            size_multiple=math.lcm(_SIZE_MULTIPLE, family.cells * family.factor),
            max_size=2 * max(width, height),
            steps=usual.steps,
            guidance_scale=usual.guidance,
            sampler=str(defaults.get("sampler", schedules.default)),
            samplers=schedules.samplers,
            token_limit=family.token_limit,
            prediction_type=schedules.prediction_type,
            device=str(self._placement.device),
            dtype=self._placement.dtype_name,
            guidance=family.guidance,
            negative_prompts=family.negative_prompts,
            unguided_scale=family.unguided,
            second_order=schedules.second_order,
            loras=self._adapters.default,
            prompt_weights=family.prompt_weights,
            long_prompts=self._long_prompts,
            defaults_from=usual.source,
        )

    def _revision(self, known: str | None) -> str:
        """Fingerprint of all image-making parts and of a preview decoder.

        A calibration depends on the preview decoder too.
        """
        made = known or fingerprint(*self._family.modules)
        return made if self._preview_decoder is self._vae else f"{made}+{fingerprint(self._preview_decoder)}"


def _family_of(pipe: Any) -> type[NativeFamily]:
    module, name = FAMILIES[type(pipe).__name__].split(".")
    family: type[NativeFamily] = getattr(import_module(f"models.generators.families.{module}"), name)
    return family


def _host(tensor: Any | None) -> Any | None:
    return None if tensor is None else tensor.cpu().numpy().copy()


def _column(values: Any) -> Any:
    return values[:, None, None, None]


def _side(latent: TorchLatent, preview: bool) -> Any:
    return latent.x0 if preview and latent.x0 is not None else latent.x


def _history(rows: Sequence[StepRow], x0: Any) -> Any:
    """The previous step's x0.

    Rows without one get this step's x0, which makes the step first order.
    """
    return torch.stack([own if row.latent.x0 is None else row.latent.x0 for row, own in zip(rows, x0, strict=True)])


def _schedule(row: StepRow) -> Schedule:
    return row.latent.schedule or row.schedule


def _look_back(rows: Sequence[StepRow], after: Any, x0: Any) -> Any:
    """Add what solvers take from the state before, and from the x0 before the last."""
    older = np.zeros((len(rows), 2), np.float32)
    for weights, row in zip(older, rows, strict=True):
        known = _schedule(row).older
        weights[:] = 0.0 if known is None else known[row.step]
    if not older.any():
        return after
    x, clean = [], []
    for own, row in zip(x0, rows, strict=True):
        x.append(row.latent.x if row.latent.x_before is None else row.latent.x_before)
        clean.append(own if row.latent.x0_before is None else row.latent.x0_before)
    p, h2 = torch.from_numpy(older).to(after.device).T
    return after + _column(p) * torch.stack(x) + _column(h2) * torch.stack(clean)


def _kept(row: StepRow, after: TorchLatent) -> TorchLatent:
    """The next latent with what its solver looks back at.

    That is nothing for one-step solvers.
    """
    if _schedule(row).older is None or row.step + 1 == row.schedule.calls:
        return after
    return replace(after, x_before=row.latent.x, x0_before=row.latent.x0, schedule=row.latent.schedule)


def _ancestral_noise(rows: Sequence[StepRow], weights: NDArray[np.float64]) -> Any:
    """Noise by (seed, step) of every row, float32 on the CPU.

    Zeros where the weight is zero. torch's CPU generator uses 32 bits of a seed, so seed and step are hashed to 32
    bits.
    """
    noise = torch.zeros((len(rows), *rows[0].latent.x.shape))
    for index, row in enumerate(rows):
        if weights[index]:
            seed = int(np.random.SeedSequence((row.seed, row.step)).generate_state(1)[0])
            noise[index] = torch.randn(noise.shape[1:], generator=torch.Generator().manual_seed(seed))
    return noise
