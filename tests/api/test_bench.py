"""The figures of the dialogue, counted on the fakes: their arithmetic, not their size."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from models.training.data.icons import pack_names
from models.training.data.palette import BACKGROUNDS
from models.training.data.scenes import Scene, Thing
from models.training.evaluation.prompts import Prompt
from tests.api.kit import House
from tests.bench import dialogue, stated


def _field(colours: list[str], order: list[int], asked: str = "red") -> dialogue.Field:
    scene = Scene((Thing("apple"),), "noto", asked, stated=frozenset({"background"}))
    pictures = np.stack([np.full((64, 64, 3), BACKGROUNDS[c], np.uint8) for c in colours])
    return dialogue.Field(Prompt("an apple", ("apple",), scene), "gen_x", pictures, order)


def test_picks_are_counted_by_what_pictures_show() -> None:
    fields = [_field(["red", "blue", "red", "green"], [2, 1, 0, 3]), _field(["blue"] * 4, [0, 1, 2, 3])]
    random, best = dialogue.picked("it", fields, must_rise=True)
    assert (random.value, best.value, best.at_least) == (0.25, 0.5, 0.25)
    assert best.reached
    assert best.detail is not None
    assert best.detail["any_candidate"] == 0.5


@pytest.mark.parametrize("attributes", [1, 2, 3])
def test_prompts_state_what_is_checked(attributes: int) -> None:
    prompts = stated.prompts(attributes, frozenset(pack_names()))
    assert len(prompts) == stated.COUNTS[attributes]
    assert stated.prompts(attributes, frozenset()) == []
    for prompt in prompts:
        assert prompt.scene is not None
        (thing,) = prompt.scene.things
        assert len(prompt.scene.stated) + (thing.hue is not None) == attributes
        if "background" in prompt.scene.stated:
            assert prompt.scene.background in prompt.text


@pytest.mark.slow
def test_all_figures_come_of_a_service(house: House) -> None:
    told: list[tuple[int, int]] = []

    def progress(total: int) -> Any:
        return lambda done: told.append((done, total))

    found = dialogue.figures(house.client, 0.2, progress)
    assert len({figure.name for figure in found}) == len(found) == 12
    assert all(figure.value is not None and 0 <= figure.value <= 1 for figure in found)
    assert told[-1][0] == told[-1][1]
    assert all(b - a == 1 for (a, _), (b, _) in pairwise(told))
    assert house.client.get(f"/v1/taste/{dialogue.PROFILE}").status_code == 404
