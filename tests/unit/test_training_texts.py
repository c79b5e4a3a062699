"""The cache of text states goes on where it was, and never mixes captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from models.training.data import texts  # noqa: E402

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
