"""Prompts of the figures, sampled from fixed seeds, each with its scene.

This module does not import torch.
"""

import dataclasses
import random
from collections.abc import Sequence

from models.training.data.captions import DISPLAY, HELD_OUT, Captioner, article
from models.training.data.palette import BACKGROUND_NAMES
from models.training.data.scenes import Mixture, Scene, SceneSampler

STYLES = ("noto", "twemoji")
"""The icon sets from which scenes of prompts are sampled.

They stay the same when a generator draws more sets, so that its figures have the same prompts.
"""
COMPOSITIONS = Mixture(pairs=0.6, columns=0.5, coloured=1.0, counted=0.4, styled=(0.0, 0.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, the names its picture should show, and the scene to check, if any."""

    text: str
    names: tuple[str, ...]
    scene: Scene | None = None


def known(names: Sequence[str], count: int) -> list[Prompt]:
    """Single things of the pack, half of them on a stated background."""
    rng = random.Random(21)
    chosen = rng.sample(list(names), min(count, len(names)))
    out = []
    for i, name in enumerate(chosen):
        asked = article(DISPLAY.get(name, name))
        text = f"{asked} on a {rng.choice(BACKGROUND_NAMES)} background" if i % 2 else asked
        out.append(Prompt(text.replace(" a orange", " an orange"), (name,)))
    return out


def composed(sampler: SceneSampler, count: int) -> list[Prompt]:
    """Scenes that state at least two attributes that pixels can show.

    Two things count as one attribute.
    """
    captioner, out = Captioner(22), list[Prompt]()
    while len(out) < count:
        scene = sampler.draw(1)[0]
        shown = len(scene.stated & {"background", "size", "place"}) + sum(t.hue is not None for t in scene.things)
        if shown + (len(scene.things) == 2) >= 2:
            out.append(Prompt(captioner.caption(scene), tuple(t.name for t in scene.things), scene))
    return out


def composition(sampler: SceneSampler, count: int) -> list[Prompt]:
    """Two things with a colour each, or one to three equal ones.

    Two are side by side or above each other. The number is stated with a colour, a background or both. `sampler` has
    the mixture `COMPOSITIONS`.
    """
    captioner, out = Captioner(25), list[Prompt]()
    while len(out) < count:
        scene = sampler.draw(1)[0]
        hues = [t.hue for t in scene.things if t.hue]
        numbered = scene.counted or scene.stated >= {"count"}
        if (numbered and (hues or "background" in scene.stated)) or (
            len(scene.things) == 2 == len(set(scene.things)) == len(hues)
        ):
            out.append(Prompt(captioner.caption(scene), tuple({t.name: None for t in scene.things}), scene))
    return out


def open_style(names: Sequence[str], count: int) -> list[Prompt]:
    """Things without a stated style or background."""
    return [Prompt(article(DISPLAY.get(n, n)), (n,)) for n in random.Random(26).sample(list(names), count)]


def single(sampler: SceneSampler, count: int, attributes: int) -> list[Prompt]:
    """Single things without a stated style, with `attributes` visible attributes.

    A single attribute is the background. More attributes are any of background, size, place and the thing's colour.
    """
    captioner, out = Captioner(24), list[Prompt]()
    while len(out) < count:
        scene = sampler.draw(1)[0]
        shown = scene.stated | ({"colour"} if scene.things[0].hue else set())
        wanted = len(shown) == attributes and (attributes > 1 or "background" in shown)
        if len(scene.things) == 1 and "style" not in shown and wanted:
            out.append(Prompt(captioner.caption(scene), (scene.things[0].name,), scene))
    return out


def open_background(names: Sequence[str], count: int) -> list[Prompt]:
    """Things without a stated background."""
    return [Prompt(article(DISPLAY.get(n, n)), (n,)) for n in random.Random(23).sample(list(names), count)]


def synonyms() -> list[Prompt]:
    """Every held-out synonym; `names` holds the meaning."""
    return [Prompt(article(word), (name,)) for word, name in HELD_OUT.items()]
