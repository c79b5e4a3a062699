"""Scenes of several things in several sets: shares, captions, checks, the split of the sets, variety of a field."""

import dataclasses
import random
import re

import numpy as np
import pytest

from models.training.data import icons, palette, split
from models.training.data.captions import COLUMNS, NUMBERS, Captioner, plural
from models.training.data.dataset import as_json, from_json
from models.training.data.scenes import (
    COMPOSED,
    UNCOUNTED,
    Icons,
    Mixture,
    Scene,
    SceneSampler,
    Thing,
    compose,
    variants,
)
from models.training.evaluation import checks, fields, prompts
from tests.unit.test_training_data import EDGE, ICONS, NAMES, disc

pytestmark = pytest.mark.slow

SHARES = {"noto": 0.5, "twemoji": 0.3, "fxemoji": 0.2}
SETS: Icons = {
    **{(style, name): icon for style in ("noto", "twemoji") for (_, name), icon in ICONS.items()},
    ("fxemoji", "apple"): ICONS["noto", "apple"],
    ("fxemoji", "frog"): ICONS["noto", "frog"],
}
MANY = dataclasses.replace(COMPOSED, pairs=0.5, counted=0.35)


def drawn(count: int, mixture: Mixture = MANY, seed: int = 1) -> list[Scene]:
    return SceneSampler(ICONS, NAMES, ["noto"], seed, mixture).draw(count)


def test_several_things_pass_their_checks() -> None:
    scenes = drawn(200)
    kinds = {(len(s.things), s.counted, s.column) for s in scenes}
    assert kinds == {(1, False, False), (2, False, False), (2, False, True), (2, True, False), (3, True, False)}
    for scene in scenes:
        found = checks.attributes(compose(scene, ICONS), scene)
        assert all(found.values()), (scene, found)


def arranged(things: tuple[Thing, ...], column: bool = False) -> Scene:
    return Scene(things, "noto", "white", column=column)


APPLE, FROG = Thing("apple", "blue"), Thing("frog", "red")
ARRANGED = {
    "one": arranged((APPLE,)),
    "row": arranged((APPLE, FROG)),
    "column": arranged((APPLE, FROG), column=True),
    "three": arranged((APPLE,) * 3),
}


@pytest.mark.parametrize("shown", ARRANGED)
def test_one_arrangement_does_not_pass_for_another(shown: str) -> None:
    mask = checks.foreground(compose(ARRANGED[shown], ICONS))
    passed = {kind for kind, scene in ARRANGED.items() if kind != "one" and checks.apart(mask, scene)}
    passed |= {"one"} if checks.alone(mask) else set()
    assert passed == {shown}


@pytest.mark.parametrize("column", [False, True])
def test_colours_are_checked_where_their_things_belong(column: bool) -> None:
    asked, swapped = arranged((APPLE, FROG), column), arranged((FROG, APPLE), column)
    found = checks.attributes(compose(swapped, ICONS), asked)
    assert found == {"column" if column else "pair": True, "colour0": False, "colour1": False}


def test_captions_say_how_many_and_what_is_above() -> None:
    captioner = Captioner(3)
    for scene in drawn(120):
        text = captioner.caption(scene)
        if scene.counted:
            assert any(word in text for word in NUMBERS[len(scene.things)]), text
            assert plural(scene.things[0].name) in text
        elif scene.column:
            assert re.search("above|over|below|under|at the top", text), text
        elif "count" in scene.stated:
            assert any(word in text for word in NUMBERS[1]), text
    both = [form.format("apple", "frog") for form in COLUMNS]
    assert {f.split()[0] for f in both if re.search("below|under", f)} == {"frog"}
    assert {f.split()[0] for f in both if re.search("above|over|top", f)} == {"apple"}


def test_plurals_are_english() -> None:
    assert [plural(p) for p in ("mouse", "cup of coffee", "knife", "sheep")] == [
        "mice",
        "cups of coffee",
        "knives",
        "sheep",
    ]
    assert {"scissors", "thumbs up"} <= UNCOUNTED


def test_each_set_has_its_share_and_is_named_as_often_as_asked() -> None:
    mixture = Mixture(pairs=0.3, counted=0.2, styled=(0.65, 0.6), styles=SHARES)
    scenes = SceneSampler(SETS, NAMES, list(SHARES), 2, mixture).draw(3000)
    for style, share in SHARES.items():
        assert np.mean([s.style == style for s in scenes]) == pytest.approx(share, abs=0.04)
    assert np.mean(["style" in s.stated for s in scenes]) == pytest.approx(0.63, abs=0.04)
    singles = [s.things[0].name for s in scenes if len(s.things) == 1 and s.style == "noto"]
    assert min(singles.count(n) for n in NAMES) > 0.9 * len(singles) / len(NAMES)


def test_near_misses_change_a_number_or_an_order() -> None:
    rng = random.Random(0)
    three = ARRANGED["three"]
    numbers = {len(v.things) for _ in range(20) for v in variants(three, rng, NAMES)}
    assert numbers == {1, 2, 3}
    assert all(v.things[0].hue == v.things[-1].hue for v in variants(three, rng, NAMES))
    swapped = dataclasses.replace(ARRANGED["column"], things=(FROG, APPLE))
    assert swapped in variants(ARRANGED["column"], rng, NAMES)


def test_rows_keep_what_is_above_and_older_rows_are_read() -> None:
    scene = ARRANGED["column"]
    row = as_json(scene)
    assert from_json(row) == scene
    del row["column"]
    assert from_json(row) == ARRANGED["row"]


def test_judge_and_scorers_share_as_few_sets_as_can_be() -> None:
    scorers = [set(s.trained) for s in split.SCORERS.values()]
    assert not set(split.JUDGE.trained) & (scorers[0] | scorers[1])
    assert scorers[0] & scorers[1] == {"twemoji"}
    for own in (split.JUDGE, *split.SCORERS.values()):
        assert own.measured
        assert not set(own.measured) & set(own.trained)
        assert set(own.trained) | set(own.measured) <= set(icons.SETS)
    assert sum(split.GENERATOR_SHARES.values()) == pytest.approx(1)
    assert set(split.GENERATOR.trained) <= {s for own in (split.JUDGE, *split.SCORERS.values()) for s in own.trained}


def dotted(x: int, y: int) -> palette.U8:
    icon = disc((200, 30, 30))
    icon[y : y + 40, x : x + 40, :3] = (20, 20, 160)
    return icon


DRAWINGS: Icons = {
    (style, "apple"): dotted(x, y)
    for style, (x, y) in zip(fields.SETS, ((x, y) for x in (10, 40, 70) for y in (10, 40, 70)), strict=False)
}


def test_a_field_of_true_drawings_has_all_of_them_on_any_ground_and_in_any_size() -> None:
    rng = random.Random(1)
    for _ in range(3):
        scenes = [
            Scene((Thing("apple"),), s, rng.choice(palette.BACKGROUND_NAMES), rng.choice(("medium", "large")))
            for s in fields.SETS
        ]
        pictures = np.stack([compose(s, DRAWINGS) for s in scenes])
        assert fields.nearest(pictures, "apple", DRAWINGS) == list(fields.SETS)
        assert fields.spread(pictures) > 0


def test_one_drawing_on_many_grounds_is_no_variety() -> None:
    scenes = [Scene((Thing("apple"),), "noto", ground, "large") for ground in palette.BACKGROUND_NAMES]
    pictures = np.stack([compose(s, DRAWINGS) for s in scenes])
    assert set(fields.nearest(pictures, "apple", DRAWINGS)) == {"noto"}
    assert fields.spread(pictures[[0, 0, 0]]) == 0
    assert DRAWINGS["noto", "apple"].shape == (EDGE, EDGE, 4)


def test_gain_is_the_mean_difference_with_its_error() -> None:
    assert fields.gain([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0]) == {
        "gain": 0.0,
        "gain_error": pytest.approx(0.2887, abs=1e-4),
    }


def test_order_is_the_share_of_pairs_of_a_right_and_a_wrong_candidate() -> None:
    assert fields.ordered([0.3, 0.1, 0.2, 0.1], [True, False, False, True]) == 0.625
    assert fields.ordered([0.3, 0.1], [True, True]) is None
    assert fields.ordered([0.3, 0.1], [False, False]) is None


def test_prompts_of_compositions_are_fixed_and_state_what_pixels_show() -> None:
    asked = [prompts.composition(SceneSampler(ICONS, NAMES, ["noto"], 5, prompts.COMPOSITIONS), 60) for _ in range(2)]
    assert asked[0] == asked[1]
    kinds = set()
    for prompt in asked[0]:
        assert prompt.scene is not None
        found = checks.attributes(compose(prompt.scene, ICONS), prompt.scene)
        assert len(found) >= 2
        assert all(found.values())
        kinds |= set(found)
    assert kinds >= {"pair", "column", "count", "colour0", "colour1", "background"}
