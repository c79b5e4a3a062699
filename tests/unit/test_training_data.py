"""The torch-free parts of the training data: palette, composition, captions, and the pixel checks of the figures."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.training.data import icons, palette
from models.training.data.captions import DISPLAY, HELD_OUT, SYNONYMS, Captioner
from models.training.data.dataset import as_json, from_json
from models.training.data.icons import pack_names
from models.training.data.scenes import PLACED_PX, Mixture, Scene, SceneSampler, Thing, compose, variants
from models.training.evaluation import checks, prompts

EDGE = 120


def disc(rgb: tuple[int, int, int]) -> palette.U8:
    """A shaded disc that fills its icon, as RGBA."""
    y, x = np.mgrid[:EDGE, :EDGE] - EDGE / 2 + 0.5
    icon = np.zeros((EDGE, EDGE, 4), np.uint8)
    icon[..., :3] = np.array(rgb) * (0.8 + 0.2 * (y[..., None] < 0))
    icon[..., 3] = 255 * (x**2 + y**2 < (EDGE / 2 - 4) ** 2)
    return icon


ICONS = {
    ("noto", name): disc(rgb)
    for name, rgb in {"apple": (200, 30, 30), "frog": (40, 160, 60), "moon": (90, 90, 95)}.items()
}
NAMES = ["apple", "frog", "moon"]


def sampler(seed: int = 1, pairs: float = 0.3) -> SceneSampler:
    return SceneSampler(ICONS, NAMES, ["noto"], seed, Mixture(pairs=pairs))


def test_hsv_round_trip() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8)
    assert np.abs(palette.hsv_to_rgb(palette.rgb_to_hsv(rgb)).astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("name", palette.BACKGROUND_NAMES)
def test_palette_colours_name_themselves(name: str) -> None:
    assert palette.nearest_background(np.array(palette.BACKGROUNDS[name], np.float32)) == name


def test_only_single_coloured_things_have_a_main_hue() -> None:
    assert palette.main_hue(ICONS["noto", "apple"]) is not None
    assert palette.main_hue(ICONS["noto", "moon"]) is None


def test_hue_shift_keeps_transparency() -> None:
    icon = ICONS["noto", "apple"]
    source = palette.main_hue(icon)
    assert source is not None
    shifted = palette.shift_hue(icon, source, "blue")
    assert (shifted[..., 3] == icon[..., 3]).all()
    assert shifted[EDGE // 2, EDGE // 2, 2] > shifted[EDGE // 2, EDGE // 2, 0]


def test_every_composed_attribute_passes_its_check() -> None:
    for scene in sampler().draw(120):
        found = checks.attributes(compose(scene, ICONS), scene)
        assert all(found.values()), (scene, found)


def test_checks_refuse_the_wrong_picture() -> None:
    stated = frozenset({"background", "size", "place"})
    asked = Scene((Thing("apple", "blue"),), "noto", "white", "small", "left", stated)
    shown = Scene((Thing("apple"),), "noto", "pink", "large", "centre", stated)
    assert not any(checks.attributes(compose(shown, ICONS), asked).values())


def test_same_seed_same_scenes() -> None:
    assert sampler(4).draw(30) == sampler(4).draw(30)


def test_variants_differ_in_one_attribute_only() -> None:
    rng = random.Random(0)
    for scene in sampler(2).draw(60):
        for other in variants(scene, rng, NAMES):
            fields = ("things", "style", "background", "size", "place")
            assert sum(getattr(scene, f) != getattr(other, f) for f in fields) <= 1


def test_words_belong_to_the_pack() -> None:
    names = set(pack_names())
    assert set(DISPLAY) <= names
    assert set(SYNONYMS) <= names
    assert set(HELD_OUT.values()) <= names
    assert len(HELD_OUT) == 60


def test_held_out_synonyms_are_never_trained() -> None:
    real = {("noto", name): ICONS["noto", "apple"] for name in pack_names()}
    scenes = SceneSampler(real, pack_names(), ["noto"], 3).draw(4000)
    captioner = Captioner(3, {name: [*HELD_OUT, "nice"] for name in pack_names()})
    words = re.compile(r"\b(" + "|".join(re.escape(w) for w in HELD_OUT) + r")\b")
    assert not [c for c in map(captioner.caption, scenes) if words.search(c)]


def test_captions_state_what_the_scene_states() -> None:
    scene = Scene(
        (Thing("apple", "blue"),), "noto", "yellow", "small", "left", frozenset({"background", "size", "place"})
    )
    captioner = Captioner(1)
    for _ in range(40):
        text = captioner.caption(scene)
        assert "blue apple" in text
        assert "yellow" in text
        assert "left" in text
        assert re.search("small|tiny|little", text)


@pytest.mark.parametrize("thing", ["fox", "closed book", "basketball"])
def test_things_in_ink_or_in_another_colour_are_called_by_no_colour_of_their_own(thing: str) -> None:
    captioner = Captioner(2, {key: ["red", "nice"] for key in (thing, "cat")})
    told = [
        set(re.findall(r"[a-z]+", captioner.caption(Scene((Thing(thing, hue),), style, "white"))))
        for hue, style in (("blue", "noto"), (None, "mdi"))
        for _ in range(200)
    ]
    own = [words & set(palette.BACKGROUND_NAMES) for words in told]
    assert own == [{"blue"}] * 200 + [set()] * 200
    plain = " ".join(captioner.caption(Scene((Thing("cat"),), "noto", "white")) for _ in range(200)).split()
    assert "nice" in plain
    assert "red" not in plain


def test_prompts_are_fixed_and_fit() -> None:
    asked = prompts.composed(sampler(6), 20)
    assert asked == prompts.composed(sampler(6), 20)
    assert all(p.scene and len(p.text.split()) <= 24 for p in asked)
    assert len(prompts.synonyms()) == 60


def test_a_mirrored_thing_faces_the_other_way_and_stays_in_its_place() -> None:
    icon = ICONS["noto", "apple"].copy()
    icon[:, :40, :3] = (20, 40, 200)
    source = {("noto", "apple"): icon}
    plain, mirrored = (
        compose(Scene((Thing("apple", mirrored=m),), "noto", "white", place="left"), source) for m in (False, True)
    )
    assert not np.array_equal(plain, mirrored)
    box = slice(2, 2 + PLACED_PX["medium"])
    assert np.array_equal(plain[:, box], mirrored[:, box][:, ::-1])
    assert np.array_equal(plain[:, 40:], mirrored[:, 40:])
    drawn = SceneSampler(ICONS, NAMES, ["noto"], 1, Mixture(mirrored=0.5)).draw(200)
    assert 0.35 < np.mean([t.mirrored for s in drawn for t in s.things]) < 0.65
    assert from_json(as_json(drawn[0])) == drawn[0]


def test_sets_are_asked_for_things_by_what_they_call_them() -> None:
    def names(name: str, hexcode: str, style: str) -> dict[str, str]:
        return icons.asked(icons.EmojiThing(name, hexcode, ()), style)

    assert names("two-hump camel", "1F42B", "fxemoji")["unicode"] == "BACTRIAN CAMEL"
    assert names("black cat", "1F408-200D-2B1B", "fxemoji")["unicode"] == "", "joined points have no name of their own"
    assert names("dog face", "1F436", "fxemoji")["spelt"] == "dog"
    assert names("turkey", "1F983", "streamline-emojis")["spelt"] == "", "that one is a flag"
    assert "spelt" not in names("dog face", "1F436", "noto")
    assert names("red apple", "1F34E", "mdi")["spelt"] == "", "ink shows no red"
    assert names("cow face", "1F42E", "ph")["spelt"] == "cow-duotone"
    assert names("cow", "1F404", "ph")["spelt"] == "", "it shows the head"
    assert names("cricket", "1F997", "emojione")["spelt"] == "", "that one is the game"


def test_ink_lies_on_paper_that_fills_outlines_and_ends_outside_them() -> None:
    icon = np.zeros((120, 120, 4), np.uint8)
    icon[30:90, 30:90, 3] = 255
    icon[35:85, 35:85, 3] = 0
    drawn = icons.inked(icon)
    assert tuple(drawn[32, 60]) == (20, 20, 20, 255)
    assert tuple(drawn[60, 60]) == (255, 255, 255, 255), "what an outline encloses is paper"
    assert drawn[28, 60, 3] == 255
    assert drawn[20, 60, 3] == 0


def test_a_set_of_pictures_is_copied_by_code_point(tmp_path: Path) -> None:
    folder = tmp_path / "node_modules" / icons.RASTER["fluent-emoji-3d"]
    folder.mkdir(parents=True)
    Image.new("RGBA", (256, 256), (10, 200, 30, 255)).save(folder / "1f438.webp", lossless=True)
    Image.new("RGBA", (256, 256), (250, 250, 250, 255)).save(folder / "2601-fe0f.webp", lossless=True)
    things = [icons.EmojiThing(*t, ()) for t in (("frog", "1F438"), ("moon", "1F319"), ("cloud", "2601"))]
    (tmp_path / "icons").mkdir()
    assert icons.copy_set(tmp_path, tmp_path / "icons", "fluent-emoji-3d", things) == 2
    found = icons.load_icons(tmp_path, ("fluent-emoji-3d",))
    assert list(found) == [("fluent-emoji-3d", "frog"), ("fluent-emoji-3d", "cloud")]
    assert tuple(found["fluent-emoji-3d", "frog"][60, 60]) == (10, 200, 30, 255)
