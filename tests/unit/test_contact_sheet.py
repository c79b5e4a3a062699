"""Contact sheets: sizes, titles, and what cannot be drawn."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.imaging import Caption, contact_sheet

sheets = import_module("app.imaging.contact_sheet")  # the package has a function of this name


def picture(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_small_pictures_are_enlarged_by_whole_numbers() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    sheet = contact_sheet([pixels], [Caption(seed=7, rank=1, score=0.4, similarity=0.4, penalty=0.0)])
    enlarged = pixels.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(sheet[40 : 40 + 256, 40 : 40 + 256], enlarged)


def test_sizes_may_differ_and_rows_may_be_short() -> None:
    images = [picture(64, 64), picture(512, 300), picture(1, 1), picture(200, 4000), picture(3, 7)]
    captions = [Caption(i, i + 1, score=0.1 * i, similarity=0.2, penalty=0.1) for i in range(3)]
    captions += [Caption(4294967295, note="pruned at step 5"), Caption(0, score=-0.5)]
    one, three = (contact_sheet(images, captions, columns) for columns in (1, 3))
    assert one.shape[1] < three.shape[1] < contact_sheet(images, captions, 99).shape[1]
    assert one.shape[0] > three.shape[0]
    assert contact_sheet(images, captions, 3, "title " * 100).shape[0] > three.shape[0]
    assert three.dtype == np.uint8


def test_equal_scores_and_odd_titles_are_drawn() -> None:
    captions = [Caption(1, 1, 0.5), Caption(2, 2, 0.5)]
    for title in ("", " ", "x" * 1000, "größer 🍎"):
        assert contact_sheet([picture(), picture()], captions, 2, title).ndim == 3


def test_a_title_whose_letters_no_font_has_is_drawn_as_its_plain_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = partial(contact_sheet, [picture()], [Caption(1, 1, 0.5)], 2)
    plain = drawn("a red car")
    assert np.array_equal(drawn("\U0001f697 \ue000", "a red car"), plain)
    monkeypatch.setattr(sheets, "FONTS", ("no such font.ttf",))
    assert np.array_equal(drawn("красная машина", "a red car"), plain)
    assert not np.array_equal(drawn("красная машина"), plain)


def test_a_russian_title_is_drawn_in_a_font_that_has_its_letters() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import get_data_path

    font = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheets, "FONTS", (font,))
        one, other = (contact_sheet([picture()], [Caption(1, 1, 0.5)], 2, text, "x") for text in ("лес", "кот"))
    assert not np.array_equal(one, other), "boxes for missing letters would be alike"


def test_nothing_to_draw_is_a_mistake() -> None:
    for images, captions, columns in (([], [], 1), ([picture()], [], 1), ([picture()], [Caption(1)], 0)):
        with pytest.raises(ValueError, match="images must not be empty"):
            contact_sheet(images, captions, columns)
