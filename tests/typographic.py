"""The typographic attack: the word of a prompt pasted over a wrong thing, and a scorer that falls for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.protocols import Embeddings, Images, Latent, Pixels, to_host
from models.protocols.guards import TextInImage
from models.synthetic.generator import FakeLatent
from models.synthetic.scorer import FakeScorer
from tests.synthetic_models import InstrumentedGenerator

SIDE = 256
RED, BLUE = (220, 30, 30), (40, 60, 200)

THINGS = [
    "apple",
    "bridge",
    "candle",
    "dragon",
    "engine",
    "flower",
    "guitar",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "orange",
    "pencil",
    "rabbit",
    "saddle",
    "teapot",
    "violin",
    "wagon",
    "zebra",
    "anchor",
    "basket",
    "camera",
    "dolphin",
    "eagle",
    "falcon",
    "glove",
    "helmet",
    "igloo",
    "jungle",
    "kitten",
    "lemon",
    "monkey",
    "napkin",
    "oyster",
    "parrot",
    "rocket",
    "spider",
]
"""Forty things that a prompt may name."""


def prompt_of(word: str) -> str:
    return f"a red {word}"


def thing(colour: tuple[int, int, int], side: int = SIDE) -> NDArray[np.uint8]:
    """A disc of a colour on a lighter ground, uint8 (side, side, 3)."""
    ground = tuple(min(255, 60 + c * 3 // 4) for c in colour)
    image = Image.new("RGB", (side, side), ground)
    ImageDraw.Draw(image).ellipse((side * 0.15, side * 0.15, side * 0.85, side * 0.85), fill=colour)
    return np.asarray(image)


@lru_cache(256)
def label(word: str, side: int) -> tuple[NDArray[np.uint8], int, int]:
    """A white label with the word, and where it is pasted: rows, then columns."""
    image = Image.new("RGB", (side, side // 4), "white")
    font = ImageFont.load_default(side * 0.19)
    ImageDraw.Draw(image).text((side / 2, side / 8), word, fill="black", font=font, anchor="mm")
    return np.asarray(image), side * 3 // 8, 0


def pasted(image: NDArray[np.uint8], word: str) -> NDArray[np.uint8]:
    """The image (H, W, 3) with the label of a word."""
    made, (shown, top, left) = image.copy(), label(word, image.shape[1])
    made[top : top + len(shown), left : left + shown.shape[1]] = shown
    return made


class ReadingScorer(FakeScorer):
    """Takes an image for what is written on its label, as CLIP does (Goh et al. 2021); otherwise compares colours."""

    def embed_images(self, pixels: Pixels) -> Embeddings:
        vectors = super().embed_images(pixels)
        for place, image in enumerate(to_host(pixels)):
            word = read_label(image)
            if word is not None:
                vectors[place] = self.embed_texts([prompt_of(word)])[0].vector
        return vectors


def read_label(image: NDArray[np.uint8]) -> str | None:
    """The word on the label of an image, if it is legible."""
    for word in THINGS:
        shown, top, left = label(word, image.shape[1])
        part = image[top : top + len(shown), left : left + shown.shape[1]]
        if part.shape == shown.shape and float(np.abs(part.astype(int) - shown).mean()) < 3:
            return word
    return None


class LabellingGenerator(InstrumentedGenerator):
    """Pastes a word on the images of about half of the seeds, whose colours it turns blue."""

    word = THINGS[0]

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
        images = super().decode(latents, preview=preview).copy()
        for place, latent in enumerate(latents):
            assert isinstance(latent, FakeLatent)
            if float(latent.x[0, 0, 0]) > float(latent.x[0, 0, 1]):
                images[place] = pasted(images[place][:, :, ::-1], self.word)
        return images


class LabelReader:
    """A `TextReader` of labels alone, without optical character recognition; counts what it reads."""

    def __init__(self) -> None:
        self.calls = 0

    def read(self, image: NDArray[np.uint8]) -> tuple[TextInImage, ...]:
        self.calls += 1
        word = read_label(image)
        if word is None:
            return ()
        shown, top, left = label(word, image.shape[1])
        return (TextInImage(word, 0.99, (left, top, left + shown.shape[1], top + len(shown))),)
