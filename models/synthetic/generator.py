"""A `StepwiseGenerator` in NumPy: deterministic, fast, without weights.

The denoiser is exact for a Gaussian around a picture that is drawn from the words of the prompt. So guidance,
previews, pruning and ranking behave as with a real model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.generators.solver_coefficients import quadratic_times
from models.loras import Lora
from models.protocols import QUADRATIC, Conditioning, GeneratorInfo, Images, Latent, Schedule, StepRow
from models.protocols.portable import LatentState, present
from models.synthetic.thumbnails import Array, thumbnail, truncate, truncation

SAMPLERS = ("euler", "ddim", QUADRATIC, "dpmpp_2m", "euler_ancestral")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
CELL = 8
_MAX_STEPS = 1000
_SPREAD = 0.5
_BRIGHTEST = 0.998


@dataclass(frozen=True, slots=True)
class FakeLatent:
    """A candidate between two steps.

    `x` and `x0` are float32 (3, height / 8, width / 8).
    """

    x: NDArray[np.float32]
    x0: NDArray[np.float32] | None = None
    guidance_gap: float = 0.0


class FakeGenerator:
    """Draws the colours that the prompt names, in another composition for each seed.

    `prediction_type` is one of `PREDICTIONS`; `token_limit` counts words plus two. Control images of the kinds
    `controls` are mixed into the picture. `id` and `revision` are those of the info.
    """

    def __init__(
        self,
        *,
        prediction_type: str = "v_prediction",
        token_limit: int = 24,
        controls: tuple[str, ...] = (),
        id: str = "fake",
        revision: str = "1",
    ) -> None:
        if prediction_type not in PREDICTIONS:
            raise ValueError(f"`prediction_type` must be one of {', '.join(PREDICTIONS)}")
        self._info = GeneratorInfo(
            id=id,
            revision=revision,
            width=64,
            height=64,
            size_multiple=CELL,
            max_size=256,
            steps=8,
            guidance_scale=2.0,
            sampler="ddim",
            samplers=SAMPLERS,
            token_limit=token_limit,
            prediction_type=prediction_type,
            device="cpu",
            dtype="float32",
            controls=controls,
        )

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        return self._info

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:  # noqa: ARG002
        """Thumbnails of texts, float64 (3, 2, 2); the empty text is grey."""
        limit = self._info.token_limit
        return [Conditioning(thumbnail(truncate(text, limit)), limit, truncation(text, limit)) for text in texts]

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:  # noqa: ARG002
        """The table of a sampler.

        Raises ValueError for a name not in `SAMPLERS` or steps outside 1..1000.
        """
        return _schedule(sampler, steps, self._info.prediction_type)

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> FakeLatent:
        """The first state: normal noise from the seed, times the schedule's scale."""
        return FakeLatent((schedule.noise_scale * _normal((seed,), width, height)).astype(np.float32))

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> FakeLatent:
        """Image latents with the seed's noise, mixed for the state before step `start`."""
        signal, scale = schedule.entry[start]
        unit = _normal((seed,), array.shape[2] * CELL, array.shape[1] * CELL)
        return FakeLatent((signal * array.astype(np.float64) + scale * unit).astype(np.float32))

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """Latents of images: the mean colour of each 8 x 8 pixels, which `decode` inverts."""
        batch, height, width, _ = pixels.shape
        cells = pixels.reshape(batch, height // CELL, CELL, width // CELL, CELL, 3).mean(axis=(2, 4))
        inner = np.clip(cells.transpose(0, 3, 1, 2) / 127.5 - 1.0, -_BRIGHTEST, _BRIGHTEST)
        return np.asarray(np.arctanh(inner), np.float16)

    def adapt(self, loras: tuple[Lora, ...]) -> None:
        """Raises ValueError for any adapter."""
        if loras:
            raise ValueError("this model takes no LoRA adapters: omit `loras`")

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        """One step of each row. Raises ValueError for no rows or more than `size`."""
        if not 0 < len(rows) <= size:
            raise ValueError(f"{len(rows)} rows cannot be padded to {size}; pass 1 to `size` rows")
        return [_step_latent(row, self._info.prediction_type) for row in rows]

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """Root mean square of the guidance difference at the last step, float32 (B,)."""
        return np.asarray([latent.guidance_gap for latent in latents], np.float32)

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
        """Pixels of latents of one shape, 8 x 8 for each latent cell."""
        cells = np.tanh(np.stack([_side(latent, preview) for latent in latents]).astype(np.float64))
        pixels = np.round((cells * 0.5 + 0.5) * 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.repeat(CELL, 2).repeat(CELL, 3).transpose(0, 2, 3, 1))

    def dump(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.float16]:
        """Host copy for storage: float16 (B, 3, height / 8, width / 8)."""
        return np.stack([_side(latent, preview) for latent in latents]).astype(np.float16)

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Finished latents from arrays of `dump`."""
        return [FakeLatent(x, x) for x in arrays.astype(np.float32)]

    def export(self, latents: Sequence[Latent]) -> list[LatentState]:
        """See `PortableLatents`."""
        return [present(x=each.x, x0=each.x0, gap=np.asarray(each.guidance_gap)) for each in latents]

    def restore(self, states: Sequence[LatentState], schedule: Schedule, start: int) -> list[Latent]:  # noqa: ARG002
        """See `PortableLatents`."""
        return [FakeLatent(each["x"], each.get("x0"), float(each["gap"])) for each in states]


def _side(latent: FakeLatent, preview: bool) -> NDArray[np.float32]:
    return latent.x0 if preview and latent.x0 is not None else latent.x


def _enlarged(picture: Array, shape: tuple[int, ...]) -> Array:
    rows, columns = (np.arange(side) * 2 // side for side in shape[1:])
    return picture[:, rows][:, :, columns]


def _normal(key: tuple[int, ...], width: int, height: int) -> Array:
    return np.random.default_rng(key).standard_normal((3, height // CELL, width // CELL))


def _alpha_sigma(t: Array) -> tuple[Array, Array]:
    """Signal and noise of the variance-preserving cosine schedule at times 0..1000."""
    angle = (t / 1000 + 0.008) / 1.008 * np.pi / 2
    return np.cos(angle), np.sin(angle)


def _denoise(z: Array, t: float, picture: Array, prediction_type: str) -> Array:
    """The exact denoiser of N(picture, _SPREAD^2), in the requested parametrisation."""
    alpha, sigma = _alpha_sigma(np.array(t))
    x0 = picture + alpha * _SPREAD**2 / (alpha**2 * _SPREAD**2 + sigma**2) * (z - alpha * picture)
    epsilon = (z - alpha * x0) / sigma
    return {"epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * x0, "sample": x0}[prediction_type]


def _step_latent(row: StepRow, prediction_type: str) -> FakeLatent:
    t, c_in, a, b, c, d, h, s = row.schedule.table[row.step]
    x = row.latent.x.astype(np.float64)
    picture = _controlled(_enlarged(row.prompt.state, x.shape), row)
    output = _denoise(c_in * x, t, picture, prediction_type)
    guidance_gap = 0.0
    if row.negative is not None:
        away = _denoise(c_in * x, t, _enlarged(row.negative.state, x.shape), prediction_type)
        guidance_gap = float(np.sqrt(np.mean((output - away) ** 2)))
        output = away + row.guidance_scale * (output - away)
    after, x0 = a * x + b * output, c * x + d * output
    if h:
        after = after + h * (x0 if row.latent.x0 is None else row.latent.x0)
    if s:
        after = after + s * _normal((row.seed, row.step + 1), x.shape[2] * CELL, x.shape[1] * CELL)
    return FakeLatent(_blended(row, after).astype(np.float32), x0.astype(np.float32), guidance_gap)


def _controlled(picture: Array, row: StepRow) -> Array:
    """The picture of the prompt with the row's control images.

    They are as bright as their weight.
    """
    for control in row.inputs.controls if row.inputs is not None else ():
        _, height, width = picture.shape
        cells = control.image.reshape(height, CELL, width, CELL, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
        picture = picture + control.weight * (cells / 127.5 - 1.0)
    return picture


def _blended(row: StepRow, after: Array) -> Array:
    """The state after a step, with the noised source outside the mask of the row."""
    if row.inpainting is None:
        return after
    source = row.inpainting.latents.astype(np.float64)
    if row.step + 1 < row.schedule.steps:
        signal, scale = row.schedule.entry[row.step + 1]
        source = signal * source + scale * _normal((row.seed,), source.shape[2] * CELL, source.shape[1] * CELL)
    return np.where(row.inpainting.cells, after, source)


_Weights = tuple[Array, Array, Array, Array]
"""p, q, h, s in x' = p * x + q * x0 + h * previous_x0 + s * noise, one per step."""


def _ddim(alpha: Array, sigma: Array, next_alpha: Array, next_sigma: Array) -> _Weights:
    p = next_sigma / sigma
    return p, next_alpha - alpha * p, np.zeros_like(p), np.zeros_like(p)


def _euler(alpha: Array, sigma: Array, next_alpha: Array, next_sigma: Array) -> _Weights:
    p = next_sigma / next_alpha * alpha / sigma
    return p, 1 - p, np.zeros_like(p), np.zeros_like(p)


def _euler_ancestral(alpha: Array, sigma: Array, next_alpha: Array, next_sigma: Array) -> _Weights:
    now, after = sigma / alpha, next_sigma / next_alpha
    p = (after / now) ** 2
    return p, 1 - p, np.zeros_like(p), after * np.sqrt(1 - p)


def _dpmpp_2m(alpha: Array, sigma: Array, next_alpha: Array, next_sigma: Array) -> _Weights:
    """Second order, except for the first and the last step."""
    k = next_alpha - next_sigma * alpha / sigma
    snr = np.log(alpha / sigma)
    extrapolation = np.zeros_like(k)
    extrapolation[1:-1] = np.diff(snr)[1:] / np.diff(snr)[:-1] / 2
    return next_sigma / sigma, k * (1 + extrapolation), -k * extrapolation, np.zeros_like(k)


_SOLVERS: dict[str, Callable[[Array, Array, Array, Array], _Weights]] = {
    "euler": _euler,
    "ddim": _ddim,
    QUADRATIC: _ddim,
    "dpmpp_2m": _dpmpp_2m,
    "euler_ancestral": _euler_ancestral,
}


def _schedule(sampler: str, steps: int, prediction_type: str) -> Schedule:
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; use one of {', '.join(SAMPLERS)}")
    if not 1 <= steps <= _MAX_STEPS:
        raise ValueError(f"`steps` must be 1..{_MAX_STEPS}, not {steps}")
    even = 1000 * (1 - np.arange(steps) / steps) - 1
    t = np.array(quadratic_times(steps), np.float64) if sampler == QUADRATIC else even
    alpha, sigma = _alpha_sigma(t)
    p, q, h, s = _SOLVERS[sampler](alpha, sigma, np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0))
    c_in = alpha if sampler.startswith("euler") else np.ones(steps)
    from_z, d = {
        "epsilon": (1 / alpha, -sigma / alpha),
        "v_prediction": (alpha, -sigma),
        "sample": (np.zeros(steps), np.ones(steps)),
    }[prediction_type]
    c = from_z * c_in
    table = np.stack([t, c_in, p + q * c, q * d, c, d, h, s], axis=1)
    return Schedule(sampler, float(1 / c_in[0]), table, np.stack([alpha, sigma], axis=1) / c_in[:, None])
