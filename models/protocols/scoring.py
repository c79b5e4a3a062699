"""Protocols of models that compare images with texts, without torch.

An `Embedder` has vectors that can be stored and compared with any text later. A `Scorer` has only numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from models.protocols.readings import Reading
from models.protocols.values import Embeddings, Pixels, Truncation

if TYPE_CHECKING:
    from typing_extensions import TypeIs


LAYOUT = "layout:"
"""Begins the names of scorers that judge where things are."""


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """A scorer's name and limits.

    `null_mean` and `null_std` describe the cosines of images with unrelated texts; None if unknown. A model that was
    trained with a sigmoid has a `logit_bias`: the probability that image and text match is
    sigmoid(logit_scale * cosine + logit_bias).
    """

    id: str
    revision: str
    dimensions: int
    image_size: int
    token_limit: int
    logit_scale: float
    device: str
    null_mean: float | None = None
    null_std: float | None = None
    logit_bias: float | None = None


@dataclass(frozen=True, slots=True)
class MatchCalibration:
    """What a cosine says about whether an image shows a text, and how exact it is.

    The probability is sigmoid(slope * cosine + intercept), where half of the pairs match: images of a prompt beside the
    texts of the same and of other prompts. `error` is its expected calibration error on `pairs` held-out pairs.
    `reliability` holds a row per bin: mean probability, share of pairs that match, and weight. `noise` is the standard
    deviation of a cosine over changes of the image that do not change what it shows.
    """

    slope: float
    intercept: float
    noise: float
    error: float
    pairs: int
    reliability: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """A text in the scorer's space: `vector` float32 (D,), L2-normalised.

    `recognised` is False if the vocabulary holds no part of the text. All its tokens are then unknown ones, and the
    vector does not depend on its meaning. `reading` is set if another text was embedded instead.
    """

    vector: NDArray[np.float32]
    truncation: Truncation | None = None
    recognised: bool = True
    reading: Reading | None = None


@dataclass(frozen=True, slots=True)
class ScoringInfo:
    """Name and traits of a model that only scores.

    `remote` is whether `score` waits for a network: it then never runs on the device thread. `reads_text` is False if
    the score depends on the image alone; a stored score is then valid for every text. `light` is whether an image costs
    about as much as its embedding: no default limits how many are scored.
    """

    id: str
    revision: str
    device: str
    remote: bool = False
    reads_text: bool = True
    light: bool = False


class Embedder(Protocol):
    """A joint image and text embedder, such as CLIP."""

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant."""
        ...

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Embeddings of images of one size, on any device, in order.

        Raises `OutOfMemory`.
        """
        ...

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embeddings of texts, in order. May be cached."""
        ...

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Patches of one image (H, W, 3) in the same space, top left first.

        Unit vectors, float32 (h, w, D). None if the image tower has no patches.
        """
        ...


class Scorer(Protocol):
    """A model that scores images against a text, such as a preference model.

    It has no embeddings that could be stored, averaged or compared with other texts later.
    """

    @property
    def info(self) -> ScoringInfo:
        """Name and traits; constant."""
        ...

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        """Scores of images of one size, on any device, in order: float32 (B,).

        Finite, higher is better. The scale is the model's own: compare scores of one model and one text only. A remote
        model takes images in host memory and may be called from any thread, several at once; the others are called
        from the engine's thread. Raises `OutOfMemory`, and `ScoringFailed` if there is no score for one of the images.
        """
        ...


class Deferred(Embedder, Protocol):
    """An embedder whose weights are read at its first use.

    Its other methods read them too, on the thread that calls. They and `loaded` also raise the errors of
    `models.errors`; the next call then tries again.
    """

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory. Call from any thread."""
        ...

    def loaded(self) -> Embedder:
        """The model behind it, read now unless it was. Call from any thread."""
        ...


def is_deferred(model: Embedder | Scorer) -> TypeIs[Deferred]:
    """Whether a model is listed before its weights are read."""
    return hasattr(model, "is_loaded")


def embeds(model: Embedder | Scorer) -> TypeIs[Embedder]:
    """Whether a model has embeddings, so that its images can be re-ranked without it."""
    return hasattr(model, "embed_images")
