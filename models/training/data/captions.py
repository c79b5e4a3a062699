"""Captions: texts for scenes, in the form of typical requests.

Owns the vocabulary: common display names, trained synonyms, held-out synonyms of the evaluation, styles and
sentence forms. No caption for training contains a held-out synonym. This module does not import torch.
"""

import functools
import random
from collections.abc import Mapping, Sequence

from models.training.data.icons import INKED
from models.training.data.scenes import MASS, TOLD_COLOURS, WORDS, Scene, Thing

DISPLAY: dict[str, str] = WORDS["display"]
SYNONYMS: dict[str, list[str]] = WORDS["synonyms"]
HELD_OUT: dict[str, str] = WORDS["held_out"]
"""Synonym -> name; excluded from training."""

STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "noto": ("noto style", "noto emoji style", "in noto style", "in the style of noto"),
    "twemoji": ("twemoji style", "flat twemoji style", "in twemoji style", "in the style of twemoji"),
    "noto-v1": ("old noto style", "in old noto style"),
    "fluent-emoji": ("fluent style", "in glossy fluent style"),
    "fluent-emoji-flat": ("flat fluent style", "in flat fluent style"),
    "fxemoji": ("flat fxemoji style", "in fxemoji style"),
    "streamline-emojis": ("outlined streamline style", "in streamline style"),
    "fluent-emoji-3d": ("3d style", "as a 3d render", "in 3d fluent style"),
    "fluent-emoji-high-contrast": ("black and white line drawing", "as a line drawing", "in high contrast style"),
    "game-icons": ("black and white game icon style", "as a game icon"),
    "icon-park": ("line icon style", "as a coloured line icon"),
    "mdi": ("black and white icon style", "as a plain icon"),
    "hugeicons": ("thin line icon style", "as a thin line icon"),
    "ph": ("duotone icon style", "as a duotone icon"),
    "fa7-solid": ("solid icon style", "as a solid icon"),
    "mingcute": ("filled icon style", "as a filled icon"),
    "boxicons": ("basic icon style", "as a basic icon"),
    "tabler": ("outline icon style", "as an outline icon"),
    "lucide": ("rounded line icon style", "as a rounded line icon"),
    "dinkie-icons": ("pixel style", "as pixel art"),
    "emojione": ("emojione style", "in emojione style"),
}
FRAMES = (
    *("{}",) * 3,
    "a picture of {}",
    "an icon of {}",
    "a pictogram of {}",
    "{} emoji",
    "an emoji of {}",
    "a drawing of {}",
)
BACKGROUND_FORMS = (
    *("on a {} background",) * 4,
    "on {}",
    "with a {} background",
    "{} background",
    "in front of a {} background",
)
SIZE_WORDS = {"small": ("small", "tiny", "little"), "medium": ("medium sized",), "large": ("large", "big", "huge")}
PLACE_WORDS = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "centre": ("in the centre", "in the middle", "centered"),
}
NUMBERS = {1: ("one", "a single", "1"), 2: ("two", "2", "a pair of"), 3: ("three", "3")}
COUNTED_FRAMES = (*("{}",) * 3, "a picture of {}", "icons of {}", "a pictogram of {}", "a drawing of {}")
ROWS = (
    "{0} and {1}",
    "{0} and {1} side by side",
    "{0} next to {1}",
    "{0} beside {1}",
    "{0} on the left and {1} on the right",
    "{0} to the left of {1}",
    "{1} to the right of {0}",
)
COLUMNS = (
    *("{0} above {1}",) * 2,
    "{0} over {1}",
    "{1} below {0}",
    "{1} under {0}",
    "{0} at the top and {1} at the bottom",
)


def article(phrase: str) -> str:
    """The phrase with `a` or `an` before it."""
    return f"{'an' if phrase[0].lower() in 'aeio' else 'a'} {phrase}"


def shown(name: str, colourless: bool = False) -> str:
    """The display name of a thing.

    With `colourless`, it is the label if the display name names a colour.
    """
    found = DISPLAY.get(name, name)
    return name if colourless and TOLD_COLOURS & set(found.split()) else found


@functools.cache
def plural(phrase: str) -> str:
    """The plural of a noun or of a phrase, such as "ears of corn"."""
    import inflect

    return str(inflect.engine().plural_noun(phrase))


class Captioner:
    """Writes captions from a fixed seed.

    `tags` maps a name to keywords of the emoji data, for some captions. Captions use no word that adds a colour for
    things in inked styles and for things shifted to another colour.
    """

    def __init__(self, seed: int, tags: Mapping[str, Sequence[str]] | None = None) -> None:
        self.random = random.Random(seed)
        banned = {word for held in HELD_OUT for word in (held, f"{held}s")} | TOLD_COLOURS
        self.tags = {
            name: [t for t in words if t.isascii() and t.isalpha() and t not in banned and t != name]
            for name, words in (tags or {}).items()
        }

    def word(self, name: str, colourless: bool = False) -> str:
        """A word for a thing: mostly its display name.

        With `colourless`, no word that adds a colour is used.
        """
        known = SYNONYMS.get(name, [])
        if colourless:
            known = [w for w in known if not TOLD_COLOURS & set(w.split())]
        return self.random.choice(known) if known and self.random.random() < 0.35 else shown(name, colourless)

    def thing(self, thing: Thing, style: str, size: str | None = None, count: int = 0) -> str:
        """An article or number, the stated size and colour, and the word.

        An article is sometimes omitted. With a number `count` above one, the word is the plural of the display name.
        """
        words = [self.random.choice(NUMBERS[count])] if count else []
        words += [self.random.choice(SIZE_WORDS[size])] if size else []
        words += [thing.hue] if thing.hue else []
        colourless = thing.hue is not None or style in INKED
        word = plural(shown(thing.name, colourless)) if count > 1 else self.word(thing.name, colourless)
        phrase = " ".join([*words, word])
        if count or thing.name in MASS or self.random.random() < 0.3:
            return phrase
        return article(phrase)

    def background(self, colour: str) -> str:
        """A phrase that states the background."""
        text = self.random.choice(BACKGROUND_FORMS).format(colour)
        return text.replace(" a orange", " an orange")

    def subject(self, scene: Scene) -> str:
        """The things, with their stated number, size, place, order and colour."""
        if len(scene.things) == 1:
            size = scene.size if "size" in scene.stated else None
            only = self.thing(scene.things[0], scene.style, size, int("count" in scene.stated))
            text = self.random.choice(FRAMES).format(only)
            return f"{text} {self.random.choice(PLACE_WORDS[scene.place])}" if "place" in scene.stated else text
        if scene.counted:
            equal = self.thing(scene.things[0], scene.style, count=len(scene.things))
            return self.random.choice(COUNTED_FRAMES).format(equal)
        both = [self.thing(t, scene.style) for t in scene.things]
        return self.random.choice(COLUMNS if scene.column else ROWS).format(*both)

    def keywords(self, scene: Scene) -> list[str]:
        """One or two keywords of a single thing, for at most 15 % of the captions."""
        pool = self.tags.get(scene.things[0].name, [])
        if len(scene.things) > 1 or not pool or self.random.random() > 0.15:
            return []
        return self.random.sample(pool, min(len(pool), self.random.randint(1, 2)))

    def caption(self, scene: Scene) -> str:
        """One caption that states the things and `scene.stated`, at most about 20 tokens."""
        parts = [self.subject(scene)]
        if "background" in scene.stated:
            parts.append(self.background(scene.background))
        style = self.random.choice(STYLE_WORDS[scene.style]) if "style" in scene.stated else None
        extra = self.keywords(scene)
        if style and not style.startswith("in "):
            return ", ".join([*([" ".join(parts)]), *extra, style])
        return " ".join(parts + ([style] if style else [])) + "".join(f", {w}" for w in extra)
