"""Whether two things are where a prompt puts them, by halves of the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import registry
from models.errors import ModelNotFound, ModelUnsupported, PackCorrupt, ScoringFailed
from models.families import SCORERS, Source, family_of, scorer_needs_torch
from models.load_options import LoadOptions
from models.pack import MANIFEST, packs
from models.protocols import Embeddings, Pixels, TextEmbedding
from models.protocols.readings import Reading
from models.scorers.layout import LayoutScorer
from models.synthetic.scorer import FakeScorer

NAMES = ("red", "green", "blue")


class ColourScorer(FakeScorer):
    """Embeds images as their mean colour and texts as the colour that they name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def embed_images(self, pixels: Pixels) -> Embeddings:
        array = np.asarray(pixels)
        self.seen.append(array.shape)
        means = array.mean(axis=(1, 2)) + 1e-3
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        named = [[name in text for name in NAMES].index(True) for text in texts]
        return [TextEmbedding(np.eye(3, dtype=np.float32)[place]) for place in named]


def picture(first: str, second: str, axis: int, size: int = 8) -> np.ndarray[Any, Any]:
    """Two halves of one colour each, side by side for axis 1, above each other for axis 0."""
    image = np.zeros((size, size, 3), np.uint8)
    for half, name in zip(np.array_split(image, 2, axis=axis), (first, second), strict=True):
        half[..., NAMES.index(name)] = 255
    return image


@pytest.mark.parametrize(
    ("text", "axis", "swapped"),
    [
        ("a red cube to the left of a blue ball", 1, False),
        ("a red cube to the right of a blue ball", 1, True),
        ("a red cube above a blue ball", 0, False),
        ("a red cube under a blue ball", 0, True),
    ],
)
@pytest.mark.parametrize("size", [8, 9])
def test_the_stated_order_scores_highest(text: str, axis: int, swapped: bool, size: int) -> None:
    images = [picture("red", "blue", axis, size), picture("blue", "red", axis, size), picture("red", "red", axis, size)]
    right, wrong, missing = LayoutScorer(ColourScorer(), id="layout").score(np.stack(images), text)[
        [int(swapped), 1 - int(swapped), 2]
    ]
    assert right > 0.9
    assert max(wrong, missing) < 0.3


def test_either_order_is_right_where_none_is_stated() -> None:
    images = np.stack([picture("red", "blue", 1), picture("blue", "red", 1), picture("red", "green", 1)])
    scores = LayoutScorer(ColourScorer(), id="layout").score(images, "a red cube next to a blue ball")
    assert min(scores[:2]) > 0.9 > scores[2]


def test_each_half_is_embedded_once_at_the_size_of_the_image() -> None:
    embedder = ColourScorer()
    LayoutScorer(embedder, id="layout").score(np.zeros((5, 8, 6, 3), np.uint8), "a red cube beside a blue ball")
    assert embedder.seen == [(5, 8, 6, 3)] * 2


def test_an_image_of_one_pixel_is_its_own_half() -> None:
    scores = LayoutScorer(ColourScorer(), id="layout").score(
        np.full((1, 1, 1, 3), 255, np.uint8), "a red cube above a blue ball"
    )
    assert scores == pytest.approx([3**-0.5], abs=1e-3)


def test_a_text_without_positions_is_refused_with_the_forms() -> None:
    with pytest.raises(ScoringFailed, match='"A to the left of B"') as failed:
        LayoutScorer(ColourScorer(), id="layout").score(np.zeros((1, 8, 8, 3), np.uint8), "a red cube")
    assert failed.value.reason == "no_positions"


def test_a_translated_text_is_read_as_its_caption() -> None:
    class Translating(ColourScorer):
        def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
            caption = "a red cube to the left of a blue ball"
            if texts == ["krasnyj kub sleva"]:
                return [TextEmbedding(np.zeros(3, np.float32), reading=Reading("ru-Latn", caption))]
            return super().embed_texts(texts)

    images = np.stack([picture("red", "blue", 1), picture("blue", "red", 1)])
    right, wrong = LayoutScorer(Translating(), id="layout").score(images, "krasnyj kub sleva")
    assert right > 0.9 > wrong


def test_it_is_light_so_it_sees_every_candidate() -> None:
    assert LayoutScorer(ColourScorer(), id="layout").info.light


def test_a_name_without_a_scorer_is_refused() -> None:
    with pytest.raises(ModelNotFound, match="'layout:' not found; name a scorer that embeds after it"):
        registry.load_models("fake", "fake", options=LoadOptions(scorers=("layout:",)))


def test_it_loads_on_the_scorer_that_is_loaded_already() -> None:
    models = registry.load_models("fake", "fake", options=LoadOptions(scorers=("layout:fake", "layout:fake-2")))
    assert [each.info.id for each in models.members] == ["layout:fake", "layout:fake-2"]
    assert models.members[0]._embedder is models.scorer  # type: ignore[union-attr]
    assert len({each.info.revision for each in (models.scorer, *models.members)}) == 3


def test_it_needs_torch_if_its_scorer_does() -> None:
    assert family_of(SCORERS, Source("layout:fake")).name == "layout"
    assert [scorer_needs_torch(Source(f"layout:{name}")) for name in ("fake", "pictogram")] == [False, True]


@pytest.mark.torch
def test_the_files_of_a_packs_folder_are_verified(tmp_path: Path) -> None:
    pack = packs()["pictogram"]
    (tmp_path / MANIFEST).write_bytes((pack.folder / MANIFEST).read_bytes())
    with pytest.raises(PackCorrupt, match="is missing"):
        registry.load_models("fake", "fake", options=LoadOptions(scorers=(f"layout:{tmp_path}",)))


def test_a_scorer_without_embeddings_cannot_be_its_base() -> None:
    with pytest.raises(ModelUnsupported, match="'fake-judge' only scores"):
        registry.load_models("fake", "fake", options=LoadOptions(scorers=("layout:fake-judge",)))
