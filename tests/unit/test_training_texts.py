"""The cache of text states goes on where it was, and never mixes captions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from models.training.data import icons, texts  # noqa: E402
from models.training.evaluation import wordings  # noqa: E402

pytestmark = pytest.mark.torch


class Counting:
    """States that hold the length of their caption."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def states(self, captions: Sequence[str]) -> object:
        self.asked += captions
        return torch.tensor([len(c) for c in captions])[:, None, None].expand(-1, texts.MAX_TOKENS, texts.WIDTH)


def cached(captions: Sequence[str], path: Path) -> tuple[list[int], list[str]]:
    """Lengths that the cache holds afterwards, and what was encoded for it."""
    encoder = Counting()
    texts.cache_states(cast(texts.TextEncoder, encoder), captions, path, batch=2)
    return [int(v) for v in np.load(path)[:, 0, 0]], encoder.asked


def test_captions_are_encoded_once_and_others_anew(tmp_path: Path) -> None:
    path, first, second = tmp_path / "states.npy", ["a", "bb", "ccc"], ["dddd", "e", "ff"]
    assert cached(first, path) == ([1, 2, 3], first)
    assert cached(first, path) == ([1, 2, 3], [])
    mark = path.with_suffix(".done")
    mark.write_text(mark.read_text().replace("3 ", "2 ", 1))
    assert cached(first, path) == ([1, 2, 3], ["ccc"]), "gone on with"
    assert cached(second, path) == ([4, 1, 2], second), "as many, but others"


class Directions:
    """Embeds each text in the direction that a table gives."""

    def __init__(self, places: dict[str, int]) -> None:
        self.places = places

    def embed_texts(self, captions: Sequence[str]) -> Any:
        return torch.eye(8)[[self.places[text] for text in captions]]


def test_names_of_other_languages_count_if_the_english_name_is_nearest(tmp_path: Path) -> None:
    words = {"en": ["apple", "taxi"], "de": ["Apfel", "Taxi"], "fr": ["pomme", "taxi"], "es": ["manzana", "taxi"]}
    for language, named in words.items():
        rows = [{"hexcode": f"1F{place}", "label": label} for place, label in enumerate([*named, "only"])]
        file = tmp_path / "node_modules/emojibase-data" / language / "data.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(rows if language == "de" else rows[:2]))
    labels = icons.labels(tmp_path)
    assert labels["de"] == {"apple": "Apfel", "taxi": "Taxi"}, "one has no English name"
    places = {"apple": 0, "taxi": 1, "Apfel": 0, "Taxi": 0, "pomme": 1, "manzana": 0}
    found = wordings.measure_languages(Directions(places), ["apple", "taxi"], labels)
    assert found["de"] == {"names": 2, "r1": 0.5, "r5": 1.0, "unchanged": 0.0}
    assert found["fr"] == {"names": 2, "r1": 0.5, "r5": 1.0, "unchanged": 0.5}
    assert found["es"] == {"names": 2, "r1": 1.0, "r5": 1.0, "unchanged": 0.5}
