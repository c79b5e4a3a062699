"""Pictures of remote generators as finished latents, stored as files.

The methods of `StepwiseGenerator` that need no denoiser. What is stored was encoded here, so decoding it is safe.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.loras import Lora
from models.protocols import Conditioning, GeneratorInfo, Images, Latent, Schedule, StepRow

_LENGTH = np.dtype("<u4")
"""The number before a stored file: its length in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image uint8 (H, W, 3), and the same as a lossless file."""

    pixels: NDArray[np.uint8]
    file: bytes

    @classmethod
    def fitted(cls, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Picture:
        """An image (H, W, 3) of any size, cropped and scaled to `size` (width, height)."""
        picture = Image.fromarray(pixels)
        if picture.size != size:
            picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "WEBP", lossless=True, quality=0, method=0)
        return cls(np.asarray(picture, np.uint8), file.getvalue())


class PictureStorage:
    """A generator without steps, whose latents are pictures."""

    def __init__(self, info: GeneratorInfo) -> None:
        self._info = info

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        return self._info

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:  # noqa: ARG002
        """The texts as they are: the remote reads them."""
        return [Conditioning(text, 0) for text in texts]

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:  # noqa: ARG002
        """A schedule of that many steps, which nothing reads.

        Raises ValueError for a sampler not in `info.samplers`.
        """
        if sampler not in self._info.samplers:
            raise ValueError(f"unknown sampler {sampler!r}; use one of {', '.join(self._info.samplers)}")
        return Schedule(sampler, 1.0, np.zeros((steps, len(Schedule.COLUMNS))), np.zeros((steps, 2)))

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> Latent:  # noqa: ARG002
        """None: the remote makes the noise."""
        return None

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> Latent:  # noqa: ARG002
        """None: the remote adds the noise."""
        return None

    def adapt(self, loras: tuple[Lora, ...]) -> None:
        """Raises ValueError for any adapter."""
        if loras:
            raise ValueError("a remote generator takes no LoRA adapters: omit `loras`")

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:  # noqa: ARG002
        """Raises RuntimeError: whole images are ordered, see `generate`."""
        raise RuntimeError("a remote generator has no steps")

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """Zeros (B,)."""
        return np.zeros(len(latents), np.float32)

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """Images of one size for storage: float16 (B, 1, 1, length)."""
        return self.dump([Picture.fitted(each, (each.shape[1], each.shape[0])) for each in pixels])

    def decode(self, latents: Sequence[Picture], *, preview: bool = False) -> Images:  # noqa: ARG002
        """Pixels of pictures of one size."""
        return np.stack([latent.pixels for latent in latents])

    def dump(self, latents: Sequence[Picture], *, preview: bool = False) -> NDArray[np.float16]:  # noqa: ARG002
        """Files for storage: float16 (B, 1, 1, length), shorter ones filled up with zeros."""
        files = [_packed(latent) for latent in latents]
        longest = max(len(each) for each in files)
        return np.stack([np.pad(each, (0, longest - len(each)))[None, None] for each in files])

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Pictures from arrays of `dump` or `encode_image`."""
        return [_unpacked(array) for array in arrays]


def _packed(picture: Picture) -> NDArray[np.float16]:
    """Length and bytes of a file, as the bits of float16 numbers."""
    data = np.array([len(picture.file)], _LENGTH).tobytes() + picture.file
    return np.frombuffer(data + bytes(len(data) % 2), "<f2").astype(np.float16, copy=False)


def _unpacked(array: NDArray[np.float16]) -> Picture:
    data = np.ascontiguousarray(array, "<f2").tobytes()
    length = int(np.frombuffer(data[: _LENGTH.itemsize], _LENGTH)[0])
    file = data[_LENGTH.itemsize :][:length]
    with Image.open(io.BytesIO(file), formats=("WEBP",)) as picture:
        return Picture(np.array(picture.convert("RGB")), file)
