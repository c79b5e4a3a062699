"""A generator and a scorer in NumPy: deterministic, quick, and real enough that ranking means something.

Owns `FakeGenerator`, an exact denoiser of a Gaussian round a picture drawn from the words of the prompt, and
`FakeScorer`, which embeds pictures and texts as four-colour thumbnails. Both keep the contract in full and can be
told to fail, to run short of memory and to be slow. They learn nothing and load nothing.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.generators.solver_tables import quadratic_times
from models.protocols import (
    QUADRATIC,
    Conditioning,
    Embeddings,
    GeneratorInfo,
    Images,
    Latent,
    OutOfMemory,
    Pixels,
    Schedule,
    ScorerInfo,
    StepRow,
    TextEmbedding,
    Truncation,
    to_host,
)

Array = NDArray[np.float64]

SAMPLERS = ("euler", "ddim", QUADRATIC, "dpmpp_2m", "euler_ancestral")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
COLOURS = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "cyan": (-1, 1, 1),
    "purple": (0.3, -1, 0.6),
    "pink": (1, 0, 0.4),
    "orange": (1, 0.1, -1),
    "brown": (0.1, -0.4, -0.8),
    "black": (-1, -1, -1),
    "white": (1, 1, 1),
}
_FACTOR = 8
_MAX_STEPS = 1000
_SPREAD = 0.5
_HEADROOM = 0.1
_BRIGHTEST = 0.998


@dataclass(frozen=True, slots=True)
class FakeLatent:
    """A candidate between two steps: `x` and `x0` float32 (3, height / 8, width / 8), `guidance_gap` of guidance."""

    x: NDArray[np.float32]
    x0: NDArray[np.float32] | None = None
    guidance_gap: float = 0.0


class FakeGenerator:
    """Draws the colours that the prompt names, differently for every seed.

    `calls` holds the rows of every denoiser call and `sizes` what they were padded to. `fail_on_call` counts from 0
    and raises RuntimeError; `max_rows` is the size above which `step` and `decode` raise `OutOfMemory`; `delay_s` is
    slept in every denoiser call.
    """

    def __init__(
        self,
        *,
        prediction_type: str = "v_prediction",
        token_limit: int = 24,
        fail_on_call: int | None = None,
        max_rows: int | None = None,
        delay_s: float = 0.0,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            raise ValueError(f"prediction_type must be one of {', '.join(PREDICTIONS)}")
        self.calls: list[int] = []
        self.sizes: list[int] = []
        self.fail_on_call = fail_on_call
        self.max_rows = max_rows
        self.delay_s = delay_s
        self._info = GeneratorInfo(
            id="fake",
            revision="1",
            width=64,
            height=64,
            size_multiple=_FACTOR,
            max_size=256,
            steps=8,
            guidance_scale=2.0,
            sampler="ddim",
            samplers=SAMPLERS,
            token_limit=token_limit,
            prediction_type=prediction_type,
            device="cpu",
            dtype="float32",
        )

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        return self._info

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:  # noqa: ARG002
        """Texts as their thumbnails, float64 (3, 2, 2); the empty text is grey."""
        limit = self._info.token_limit
        return [Conditioning(_thumbnail(_truncate(text, limit)), limit, _truncation(text, limit)) for text in texts]

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:  # noqa: ARG002
        """The table of a sampler. Raises ValueError for a name not in `SAMPLERS` or steps outside 1..1000."""
        return _schedule(sampler, steps, self._info.prediction_type)

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> FakeLatent:
        """The first state: normal noise of the seed alone, times the schedule's scale."""
        return FakeLatent((schedule.noise_scale * _normal((seed,), width, height)).astype(np.float32))

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> FakeLatent:
        """The picture with the seed's own noise, as the schedule mixes them before step `start`."""
        signal, scale = schedule.entry[start]
        unit = _normal((seed,), array.shape[2] * _FACTOR, array.shape[1] * _FACTOR)
        return FakeLatent((signal * array.astype(np.float64) + scale * unit).astype(np.float32))

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """The mean colour of every eight by eight pixels, as `decode` would have it. Raises `OutOfMemory`."""
        self._check_memory(len(pixels))
        batch, height, width, _ = pixels.shape
        cells = pixels.reshape(batch, height // _FACTOR, _FACTOR, width // _FACTOR, _FACTOR, 3).mean(axis=(2, 4))
        inner = np.clip(cells.transpose(0, 3, 1, 2) / 127.5 - 1.0, -_BRIGHTEST, _BRIGHTEST)
        return np.asarray(np.arctanh(inner), np.float16)

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        """One counted call. Raises `OutOfMemory` above `max_rows`, RuntimeError at `fail_on_call`."""
        self._enter(len(rows), size)
        return [_step_latent(row, self._info.prediction_type) for row in rows]

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """How far guidance pulled at the last step: root mean square, float32 (B,)."""
        return np.asarray([latent.guidance_gap for latent in latents], np.float32)

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
        """Latents of one shape as pixels, eight to a latent cell. Raises `OutOfMemory` above `max_rows`."""
        self._check_memory(len(latents))
        cells = np.tanh(np.stack([_side(latent, preview) for latent in latents]).astype(np.float64))
        pixels = np.round((cells * 0.5 + 0.5) * 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.repeat(_FACTOR, 2).repeat(_FACTOR, 3).transpose(0, 2, 3, 1))

    def dump(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.float16]:
        """Host copy for storage: float16 (B, 3, height / 8, width / 8)."""
        return np.stack([_side(latent, preview) for latent in latents]).astype(np.float16)

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Finished latents back from `dump`."""
        return [FakeLatent(x, x) for x in arrays.astype(np.float32)]

    def _enter(self, rows: int, size: int) -> None:
        if size < rows or rows == 0:
            raise ValueError(f"a call of {rows} rows cannot be padded to {size}")
        self._check_memory(size)
        call = len(self.calls)
        self.calls.append(rows)
        self.sizes.append(size)
        time.sleep(self.delay_s)
        if call == self.fail_on_call:
            raise RuntimeError(f"fake failure in denoiser call {call}")

    def _check_memory(self, size: int) -> None:
        if self.max_rows is not None and size > self.max_rows:
            raise OutOfMemory(f"the fake device holds {self.max_rows} rows, not {size}")


class FakeScorer:
    """Compares the colours of the four quarters of a picture with those a text asks for.

    `calls` holds the number of images of every `embed_images` call; `max_rows` is the number above which it raises
    `OutOfMemory`.
    """

    def __init__(self, *, token_limit: int = 16, max_rows: int | None = None) -> None:
        self.calls: list[int] = []
        self.max_rows = max_rows
        self._info = ScorerInfo(
            id="fake",
            revision="1",
            dimensions=13,
            image_size=2,
            token_limit=token_limit,
            logit_scale=20.0,
            device="cpu",
            null_mean=0.0,
            null_std=0.4,
        )

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant."""
        return self._info

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Embeddings float32 (B, 13) of images of one size, at least 2x2. Raises `OutOfMemory` above `max_rows`."""
        images = to_host(pixels)
        if self.max_rows is not None and len(images) > self.max_rows:
            raise OutOfMemory(f"the fake device holds {self.max_rows} images, not {len(images)}")
        self.calls.append(len(images))
        return _unit(_quarters(images))

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """The four quarters (2, 2, 13), each as if the whole picture had its colour."""
        quarters = _quarters(image[None])[0].transpose(1, 2, 0).reshape(4, 3, 1, 1)
        return _unit(quarters.repeat(2, 2).repeat(2, 3)).reshape(2, 2, -1)

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embeddings of texts, in order."""
        limit = self._info.token_limit
        return [
            TextEmbedding(
                _unit(_thumbnail(_truncate(text, limit))[None])[0],
                _truncation(text, limit),
                recognised=re.search(r"\w", text) is not None,
            )
            for text in texts
        ]


def _side(latent: FakeLatent, preview: bool) -> NDArray[np.float32]:
    return latent.x0 if preview and latent.x0 is not None else latent.x


def _truncate(text: str, limit: int) -> str:
    return " ".join(text.split()[: limit - 2])


def _truncation(text: str, limit: int) -> Truncation | None:
    words = text.split()
    if len(words) <= limit - 2:
        return None
    return Truncation(tokens=len(words) + 2, limit=limit, dropped=" ".join(words[limit - 2 :]))


@lru_cache(1024)
def _thumbnail(text: str) -> Array:
    """What a text looks like: (3, 2, 2) about -0.5..0.5; its colour words decide most, the text as a whole the rest."""
    if not text.strip():
        return np.zeros((3, 2, 2))
    own = (
        np.frombuffer(hashlib.sha256(text.encode(errors="replace")).digest()[:12], np.uint8).reshape(3, 2, 2) / 127.5
        - 1.0
    )
    named = [COLOURS[word] for word in re.findall(r"\w+", text.lower()) if word in COLOURS]
    colour = np.mean(named, axis=0) if named else np.zeros(3)
    return np.asarray(0.35 * colour[:, None, None] + 0.15 * own)


def _enlarged(thumbnail: Array, shape: tuple[int, ...]) -> Array:
    rows, columns = (np.arange(side) * 2 // side for side in shape[1:])
    return thumbnail[:, rows][:, :, columns]


def _normal(key: tuple[int, ...], width: int, height: int) -> Array:
    return np.random.default_rng(key).standard_normal((3, height // _FACTOR, width // _FACTOR))


def _alpha_sigma(t: Array) -> tuple[Array, Array]:
    """Signal and noise of the variance-preserving cosine schedule at times 0..1000."""
    angle = (t / 1000 + 0.008) / 1.008 * np.pi / 2
    return np.cos(angle), np.sin(angle)


def _denoise(z: Array, t: float, thumbnail: Array, prediction_type: str) -> Array:
    """The exact denoiser of N(picture, _SPREAD^2), in the asked-for parametrisation."""
    alpha, sigma = _alpha_sigma(np.array(t))
    picture = _enlarged(thumbnail, z.shape)
    x0 = picture + alpha * _SPREAD**2 / (alpha**2 * _SPREAD**2 + sigma**2) * (z - alpha * picture)
    epsilon = (z - alpha * x0) / sigma
    return {"epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * x0, "sample": x0}[prediction_type]


def _step_latent(row: StepRow, prediction_type: str) -> FakeLatent:
    t, c_in, a, b, c, d, h, s = row.schedule.table[row.step]
    x = row.latent.x.astype(np.float64)
    output = _denoise(c_in * x, t, row.prompt.state, prediction_type)
    guidance_gap = 0.0
    if row.negative is not None:
        away = _denoise(c_in * x, t, row.negative.state, prediction_type)
        guidance_gap = float(np.sqrt(np.mean((output - away) ** 2)))
        output = away + row.guidance_scale * (output - away)
    after, x0 = a * x + b * output, c * x + d * output
    if h:
        after = after + h * (x0 if row.latent.x0 is None else row.latent.x0)
    if s:
        after = after + s * _normal((row.seed, row.step + 1), x.shape[2] * _FACTOR, x.shape[1] * _FACTOR)
    return FakeLatent(after.astype(np.float32), x0.astype(np.float32), guidance_gap)


def _quarters(images: Images) -> Array:
    """Mean colour of the four quarters: (B, 3, 2, 2) in -1..1; a picture one pixel wide is doubled first."""
    if min(images.shape[1:3]) < 2:
        images = images.repeat(2, 1).repeat(2, 2)
    halves = [np.array_split(half, 2, axis=2) for half in np.array_split(images, 2, axis=1)]
    means = np.array([[part.mean(axis=(1, 2)) for part in half] for half in halves])
    return np.asarray(means.transpose(2, 3, 0, 1) / 127.5 - 1.0)


def _unit(thumbnails: Array) -> Embeddings:
    """Unit vectors float32 (B, 13); the last component keeps grey from having no direction."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    vectors = np.concatenate([flat, np.full((len(flat), 1), _HEADROOM)], axis=1)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


_Weights = tuple[Array, Array, Array, Array]
"""p, q, h, s of x' = p * x + q * x0 + h * x0_before + s * noise, one value a step."""


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
    """Second order between the first step and the last, which are first order."""
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
        raise ValueError(f"unknown sampler {sampler!r}, have {', '.join(SAMPLERS)}")
    if not 1 <= steps <= _MAX_STEPS:
        raise ValueError(f"steps must be 1..{_MAX_STEPS}, not {steps}")
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
