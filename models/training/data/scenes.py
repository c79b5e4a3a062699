"""Scenes: the content of pictures, their composition from icons, and their shares.

A scene is one thing, two side by side or above each other, or two or three equal ones. It has one style and one
background. The layout is exact to the pixel (no jitter), so that every stated attribute can be checked on the finished
picture. This module does not import torch.
"""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from models.training.data.palette import BACKGROUND_NAMES, BACKGROUNDS, HUE_NAMES, U8, hue_distance, main_hue, shift_hue
from models.training.data.palette import HUES as HUE_TABLE

SIZE_PX = 64
Size = Literal["small", "medium", "large"]
Place = Literal["left", "centre", "right"]
EDGE_PX: dict[Size, int] = {"small": 26, "medium": 46, "large": 60}
PLACED_PX: dict[Size, int] = {"small": 24, "medium": 34, "large": 34}
PAIR_PX = 29
"""Edge of each of several things."""
SPOTS: dict[str, tuple[tuple[int, int], ...]] = {
    "row": ((2, 17), (33, 17)),
    "column": ((17, 2), (17, 33)),
    "triangle": ((17, 2), (2, 33), (33, 33)),
}
"""Left and top of each of several things, in px."""


@dataclasses.dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a scene.

    `hue` is the name of the colour that it is shifted to; None keeps its own colours. `mirrored` things are flipped
    horizontally; captions never state this.
    """

    name: str
    hue: str | None = None
    mirrored: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """The content of one picture.

    `stated` holds the attributes that its caption states. Things, a number above one, and an order from top to bottom
    are always stated. Of two things the first is on the left or, with `column`, above. Three things are equal:
    one above two. With several things, `size` and `place` do not apply.
    """

    things: tuple[Thing, ...]
    style: str
    background: str
    size: Size = "medium"
    place: Place = "centre"
    stated: frozenset[str] = frozenset()
    column: bool = False

    @property
    def counted(self) -> bool:
        """Whether it shows two or three equal things."""
        return len(self.things) > 1 and len(set(self.things)) == 1


@dataclasses.dataclass(frozen=True, slots=True)
class Mixture:
    """The shares of the kinds of scenes, each 0 to 1.

    `pairs`: scenes of two different things. Of these, `columns` are above each other, and `coloured` is the share of
    their things in another colour. `counted`: scenes of two or three equal things. With it, some captions of single
    things say "one". `styled`: how often captions state the style, of single things and of several things. `mirrored`:
    things flipped horizontally. `styles`: share of each style; None draws every (style, name) equally often.
    """

    pairs: float = 0.22
    columns: float = 0.0
    coloured: float = 0.25
    counted: float = 0.0
    styled: tuple[float, float] = (0.5, 0.35)
    mirrored: float = 0.0
    styles: Mapping[str, float] | None = None


PLAIN = Mixture()
COMPOSED = Mixture(pairs=0.26, columns=0.4, coloured=0.6, counted=0.12, styled=(0.65, 0.6))
"""Scenes in which several stated attributes are common."""

COLOUR_WORDS = frozenset(BACKGROUND_NAMES)
"""Things whose names contain one of these are never shifted to another colour."""

TOLD_COLOURS = COLOUR_WORDS | {"gray", "gold", "golden", "goldfish", "silver", "silverback"}
"""Words that name a thing's own colour."""

WORDS = json.loads((Path(__file__).parent / "words.json").read_text("utf-8"))
MASS = frozenset(WORDS["mass"])
"""Things whose names take no article: plurals and substances."""
UNCOUNTED = MASS | frozenset(WORDS["uncounted"])
"""Things that scenes and captions never count."""

Icons = Mapping[tuple[str, str], U8]
"""(style, name) -> uint8 RGBA (E, E, 4), straight alpha, E at least 64."""


def fit(rgba: U8, edge: int) -> U8:
    """The icon at `edge` px, resampled with premultiplied alpha."""
    way = Image.Resampling.BOX if rgba.shape[0] % edge == 0 else Image.Resampling.LANCZOS
    image = Image.fromarray(rgba, "RGBA").convert("RGBa").resize((edge, edge), way)
    return np.asarray(image.convert("RGBA"))


def boxes(scene: Scene) -> list[tuple[int, int, int]]:
    """Left, top and edge in px of each thing of the scene."""
    if len(scene.things) > 1:
        kind = "triangle" if len(scene.things) == 3 else "column" if scene.column else "row"
        return [(left, top, PAIR_PX) for left, top in SPOTS[kind]]
    if scene.place == "centre":
        edge = EDGE_PX[scene.size]
        left = (SIZE_PX - edge) // 2
        return [(left, left, edge)]
    edge = PLACED_PX[scene.size]
    left = 2 if scene.place == "left" else SIZE_PX - 2 - edge
    return [(left, (SIZE_PX - edge) // 2, edge)]


def compose(scene: Scene, icons: Icons) -> U8:
    """The picture of a scene: uint8 RGB (64, 64, 3)."""
    picture = np.empty((SIZE_PX, SIZE_PX, 3), np.float32)
    picture[:] = BACKGROUNDS[scene.background]
    for thing, (left, top, edge) in zip(scene.things, boxes(scene), strict=True):
        icon = icons[scene.style, thing.name]
        source = main_hue(icon) if thing.hue else None
        if thing.hue and source is not None:
            icon = shift_hue(icon, source, thing.hue)
        small = fit(icon[:, ::-1] if thing.mirrored else icon, edge).astype(np.float32)
        alpha = small[..., 3:] / 255
        window = picture[top : top + edge, left : left + edge]
        window[:] = window * (1 - alpha) + small[..., :3] * alpha
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def shiftable(icons: Icons, style: str, name: str) -> float | None:
    """The main hue (turns) of a thing in this style, None if it has none.

    Only the colour of a thing with a main hue can be stated.
    """
    return main_hue(icons[style, name])


class SceneSampler:
    """Samples scenes from a fixed seed.

    `names` are the things, `styles` the icon sets; combinations without an icon are never sampled. The distance of a
    stated hue from the thing's own hue is always large enough to be visible. `mixture` holds the shares.
    """

    def __init__(
        self, icons: Icons, names: Sequence[str], styles: Sequence[str], seed: int, mixture: Mixture = PLAIN
    ) -> None:
        self.random = random.Random(seed)
        self.mixture = mixture
        self.styles = list(styles)
        self.names = {style: [n for n in names if (style, n) in icons] for style in styles}
        self.hues = {(s, n): shiftable(icons, s, n) for s in styles for n in self.names[s]}

    def hue(self, style: str, name: str, share: float) -> str | None:
        """A colour to shift the thing to, or None.

        Things with one main hue get a colour in `share` of the calls; others get none.
        """
        own = self.hues[style, name]
        if own is None or COLOUR_WORDS & set(name.split()) or self.random.random() > share:
            return None
        return self.random.choice([h for h in HUE_NAMES if hue_distance(HUE_TABLE[h], own) > 0.07])

    def thing(self, style: str, name: str, share: float) -> Thing:
        """The thing, in another colour in `share` of the calls, and mirrored at random."""
        hue = self.hue(style, name, share)
        mirrored = self.mixture.mirrored
        return Thing(name, hue, mirrored > 0 and self.random.random() < mirrored)

    def background(self, things: tuple[Thing, ...]) -> str:
        """A background: never the colour a thing was shifted to.

        White is more frequent than the others.
        """
        taken = {t.hue for t in things}
        if self.random.random() < 0.15:
            return "white"
        return self.random.choice([b for b in BACKGROUND_NAMES if b not in taken])

    def style(self) -> str:
        """A style, as often as the mixture says."""
        shares = self.mixture.styles
        if shares is None:
            return self.random.choice(self.styles)
        return self.random.choices(self.styles, [shares[s] for s in self.styles])[0]

    def stated(self) -> frozenset[str]:
        """What a caption of several things states besides them."""
        shares = (("style", self.mixture.styled[1]), ("background", 0.55))
        return frozenset(what for what, share in shares if self.random.random() < share)

    def pair(self, style: str) -> Scene:
        """Two different things, side by side or above each other."""
        first, second = self.random.sample(self.names[style], 2)
        stated = self.stated()
        things = tuple(self.thing(style, n, self.mixture.coloured) for n in (first, second))
        column = self.mixture.columns > 0 and self.random.random() < self.mixture.columns
        return Scene(things, style, self.background(things), stated=stated, column=column)

    def several(self, style: str) -> Scene:
        """Two or three equal things."""
        name = self.random.choice([n for n in self.names[style] if n not in UNCOUNTED])
        things = (self.thing(style, name, 0.4),) * self.random.choice((2, 3))
        return Scene(things, style, self.background(things), stated=self.stated())

    def single(self, style: str, name: str) -> Scene:
        """One thing; unusual sizes and places are nearly always stated."""
        size: Size = self.random.choices(("small", "medium", "large"), (0.17, 0.62, 0.21))[0]
        place: Place = "centre"
        if size != "large" and self.random.random() < 0.22:
            place = "left" if self.random.random() < 0.5 else "right"
        shares = {
            "style": self.mixture.styled[0],
            "background": 0.6,
            "size": 0.1 if size == "medium" else 0.9,
            "place": 0.05 if place == "centre" else 0.92,
        }
        if self.mixture.counted and name not in UNCOUNTED:
            shares["count"] = 0.08
        stated = frozenset(k for k, share in shares.items() if self.random.random() < share)
        thing = self.thing(style, name, 0.3)
        return Scene((thing,), style, self.background((thing,)), size, place, stated)

    def deck(self) -> list[tuple[str, str]]:
        """Every (style, name) in random order, repeated until each style has its share."""
        shares = self.mixture.styles
        deck = [(s, n) for s in self.styles for n in self.names[s]]
        if shares is not None:
            lengths = {s: round(len(deck) * shares[s]) for s in self.styles}
            whole = {s: -(-length // len(self.names[s])) for s, length in lengths.items()}
            deck = [
                (s, n)
                for s, length in lengths.items()
                for turn in range(whole[s])
                for n in self.random.sample(self.names[s], min(len(self.names[s]), length - turn * len(self.names[s])))
            ]
        self.random.shuffle(deck)
        return deck

    def draw(self, count: int) -> list[Scene]:
        """`count` scenes.

        Every (style, name) combination of a style appears about equally often as a single thing.
        """
        scenes: list[Scene] = []
        deck: list[tuple[str, str]] = []
        while len(scenes) < count:
            kind = self.random.random()
            if kind < self.mixture.pairs:
                scenes.append(self.pair(self.style()))
                continue
            if kind < self.mixture.pairs + self.mixture.counted:
                scenes.append(self.several(self.style()))
                continue
            deck = deck or self.deck()
            scenes.append(self.single(*deck.pop()))
        return scenes


def variants(scene: Scene, rng: random.Random, names: Sequence[str]) -> list[Scene]:
    """Scenes that differ from `scene` in exactly one stated attribute.

    They are the hard negatives of the scorer.
    """
    out: list[Scene] = []
    change = dataclasses.replace
    if "background" in scene.stated:
        out.append(change(scene, background=rng.choice([b for b in BACKGROUND_NAMES if b != scene.background])))
    if scene.counted or "count" in scene.stated:
        out.append(
            change(scene, things=scene.things[:1] * rng.choice([n for n in (1, 2, 3) if n != len(scene.things)]))
        )
    elif len(scene.things) == 2:
        first, second = scene.things
        others = [n for n in names if n not in {first.name, second.name}]
        out.append(change(scene, things=(first, Thing(rng.choice(others), second.hue))))
        out.append(change(scene, things=(Thing(rng.choice(others), first.hue), second)))
        if scene.column:
            out.append(change(scene, things=(second, first)))
    if len(scene.things) == 1 and "size" in scene.stated:
        sizes: tuple[Size, ...] = ("small", "large")
        out.append(change(scene, size=rng.choice([s for s in sizes if s != scene.size])))
    if len(scene.things) == 1 and "place" in scene.stated:
        out.append(change(scene, place="left" if scene.place != "left" else "right"))
    for thing in dict.fromkeys(scene.things):
        if thing.hue:
            other = change(thing, hue=rng.choice([h for h in HUE_NAMES if h != thing.hue]))
            out.append(change(scene, things=tuple(other if t == thing else t for t in scene.things)))
    return out


def twins(scene: Scene, icons: Icons, styles: Sequence[str]) -> list[Scene]:
    """Scenes that differ only in unstated background, style or both.

    No background has a colour that a thing was shifted to. Scenes with shifted things keep their style, since not every
    style has a single-coloured icon of the thing.
    """
    hues = {t.hue for t in scene.things} - {None}
    grounds = [b for b in BACKGROUND_NAMES if "background" not in scene.stated and b not in hues]
    manners = [
        s
        for s in styles
        if "style" not in scene.stated and not hues and all((s, t.name) in icons for t in scene.things)
    ]
    open_to = [(b, s) for b in {scene.background, *grounds} for s in {scene.style, *manners}]
    own = (scene.background, scene.style)
    return [dataclasses.replace(scene, background=b, style=s) for b, s in sorted(open_to) if (b, s) != own]
