"""Icon sets: installs their packages, renders them once, and reads the results.

Owns the folder RUNS/icons (SET.rgba, SET.txt) and RUNS/things.json (names, code points, keywords). Sources and licences
are listed in `SETS`; the model card credits them. `split` says which network uses which. This module does not import
torch.
"""

import dataclasses
import json
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from models.training.data.palette import U8
from models.training.data.scenes import COLOUR_WORDS, Icons

ICON_PX = 120
HERE = Path(__file__).parent
SETS = {
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "fluent-emoji": "MIT",
    "fluent-emoji-flat": "MIT",
    "twemoji": "CC-BY-4.0",
    "emojione": "CC-BY-4.0",
    "fxemoji": "Apache-2.0",
    "streamline-emojis": "CC-BY-4.0",
    "fluent-emoji-3d": "MIT",
    "fluent-emoji-high-contrast": "MIT",
    "game-icons": "CC-BY-3.0",
    "icon-park": "Apache-2.0",
    "mdi": "Apache-2.0",
    "hugeicons": "MIT",
    "ph": "MIT",
    "fa7-solid": "CC-BY-4.0",
    "mingcute": "Apache-2.0",
    "boxicons": "MIT",
    "tabler": "MIT",
    "lucide": "ISC",
    "dinkie-icons": "MIT",
}
RASTER = {"fluent-emoji-3d": "@lobehub/fluent-emoji-3d/assets"}
"""Sets of raster pictures, one per code point: set -> folder in node_modules."""
INKED = (
    *("fluent-emoji-high-contrast", "game-icons", "mdi", "hugeicons", "ph"),
    *("fa7-solid", "mingcute", "boxicons", "tabler", "lucide", "dinkie-icons"),
)
"""Sets of one colour, drawn in black with a white area behind the lines.

The white area ends slightly outside the lines.
"""
VERSIONS = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/streamline-emojis": "1.2.4",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/game-icons": "1.2.4",
    "@iconify-json/icon-park": "1.2.4",
    "@iconify-json/mdi": "1.2.3",
    "@iconify-json/hugeicons": "1.2.35",
    "@iconify-json/ph": "1.2.2",
    "@iconify-json/fa7-solid": "1.2.5",
    "@iconify-json/mingcute": "1.2.8",
    "@iconify-json/boxicons": "1.2.0",
    "@iconify-json/tabler": "1.2.41",
    "@iconify-json/lucide": "1.2.137",
    "@iconify-json/dinkie-icons": "1.2.0",
    "@resvg/resvg-js": "2.6.2",
    "emojibase-data": "17.0.0",
}


def heads(*animals: str) -> dict[str, str]:
    """Animals whose icon in a set shows only the head, under the animal's name."""
    return {**{f"{animal} face": animal for animal in animals}, **dict.fromkeys(animals, "")}


def without(*names: str) -> dict[str, str]:
    """Names that mean something else in a set."""
    return dict.fromkeys(names, "")


SPELT = {
    "emojione": without("cricket"),
    "noto-v1": without("cricket"),
    "fxemoji": {**heads("cat", "dog", "mouse", "pig", "tiger"), **without("sunglasses")},
    "streamline-emojis": without("turkey"),
    "game-icons": without("ram", "pig face", "ribbon", "butterfly"),
    "icon-park": {
        **heads("cat", "dog", "monkey", "pig", "rabbit"),
        **without("mouse", "seal", "turkey", "chicken", "doughnut", "pie", "egg", "cooking", "spoon", "anchor"),
        **without("sunset", "ring", "magic wand", "trumpet", "telescope", "chair", "fireworks"),
    },
    "mdi": {
        **heads("cat", "cow", "dog", "pig"),
        **without("mouse", "seal", "cricket", "fly", "hospital", "satellite", "ribbon"),
    },
    "hugeicons": {
        **heads("cat"),
        **without("seal", "ribbon", "radio", "joker", "sunglasses", "locked", "satellite", "police car"),
        **without("sunrise", "sunset"),
    },
    "ph": {
        **{f"{animal} face": f"{animal}-duotone" for animal in ("cat", "cow", "dog", "horse", "rabbit")},
        **without("cat", "cow", "dog", "horse", "rabbit", "mouse", "seal", "cricket", "tornado"),
    },
    "fa7-solid": without("mouse", "ribbon", "ring", "baby"),
    "mingcute": {
        **{f"{animal} face": f"{animal}-fill" for animal in ("cat", "dog", "rabbit")},
        **without("cat", "dog", "rabbit", "mouse", "seal", "deer", "chicken", "drum", "sunrise", "sunset"),
    },
    "boxicons": {**heads("cat", "dog"), **without("mouse", "seal", "desert", "tornado")},
    "tabler": {
        **heads("cat", "dog"),
        **without("mouse", "cricket", "rosette", "deer", "hospital", "sunrise", "sunset", "tornado", "joker"),
        **without("ice cream"),
    },
    "lucide": {**heads("cat", "dog"), **without("mouse", "sunrise", "sunset", "tornado", "ribbon", "radio")},
}
"""Corrected names: set -> name of the thing -> name in the set, "" for none.

The set's own names for these pictures are misleading.
"""
PEOPLE_GROUPS = (1, 2, 8, 9)
"""Excluded emoji groups: people, components, symbols, flags.

Hearts of the smileys group are included.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class EmojiThing:
    """One drawable thing: its name, code points as dashed hexadecimal, and keywords."""

    name: str
    hexcode: str
    tags: tuple[str, ...]


def pack_names() -> list[str]:
    """The names that the pack supports, in a fixed order."""
    names: list[str] = json.loads((HERE / "names.json").read_text("utf-8"))
    return names


def install(node: Path) -> None:
    """Installs icon sets, emoji data and renderer into the folder `node` with npm."""
    node.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in VERSIONS.items()]
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(node), *wanted], check=True)


def read_things(node: Path) -> list[EmojiThing]:
    """Every allowed thing of the emoji data, with the pack's names first."""
    rows = json.loads((node / "node_modules/emojibase-data/en/data.json").read_text("utf-8"))
    order = {name: i for i, name in enumerate(pack_names())}
    kept = [
        EmojiThing(r["label"], r["hexcode"], tuple(r.get("tags", ())))
        for r in rows
        if r["label"] in order or ("group" in r and r["group"] not in PEOPLE_GROUPS)
    ]
    return sorted(kept, key=lambda t: order.get(t.name, len(order)))


def labels(node: Path) -> dict[str, dict[str, str]]:
    """Names of the emoji data, by language and English name."""
    folder = node / "node_modules/emojibase-data"
    read = {file.parent.name: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*/data.json"))}
    english = {row["hexcode"]: row["label"] for row in read["en"]}
    return {
        language: {english[row["hexcode"]]: row["label"] for row in rows if row["hexcode"] in english}
        for language, rows in read.items()
    }


def asked(thing: EmojiThing, style: str) -> dict[str, str]:
    """The renderer's input for a thing: its name, code points and Unicode name.

    Some sets use the Unicode name for their pictures. `spelt` is the corrected name in the set, if there is one.
    """
    points = thing.hexcode.removesuffix("-FE0F").split("-")
    unicode = unicodedata.name(chr(int(points[0], 16)), "") if len(points) == 1 else ""
    row = {"name": thing.name, "hexcode": thing.hexcode, "unicode": unicode}
    found = SPELT.get(style, {}).get(thing.name)
    if style in INKED and COLOUR_WORDS & set(thing.name.split()):
        found = ""
    return row if found is None else {**row, "spelt": found}


def render_set(node: Path, out: Path, style: str, things: list[EmojiThing]) -> int:
    """Renders one set and returns the number of pictures.

    If a picture aborts the renderer, rendering restarts after that picture.
    """
    for suffix in ("rgba", "txt", "now"):
        (out / f"{style}.{suffix}").unlink(missing_ok=True)
    stdin = json.dumps([asked(t, style) for t in things])
    start = 0
    while True:
        command = ["node", str(HERE / "render.mjs"), str(node), str(out), style, str(ICON_PX), str(start)]
        done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
        at = (out / f"{style}.now").read_text() if (out / f"{style}.now").exists() else ""
        if at == "done":
            break
        if not at or int(at) < start:
            raise RuntimeError(f"rendering {style} failed: {done.stderr[-500:]}")
        start = int(at) + 1
    return len((out / f"{style}.txt").read_text("utf-8").splitlines())


def copy_set(node: Path, out: Path, style: str, things: list[EmojiThing]) -> int:
    """Converts a set of raster pictures and returns the number of pictures."""
    folder = node / "node_modules" / RASTER[style]
    files = {p.stem.replace("-fe0f", ""): p for p in folder.glob("*.webp")}
    found = [(t.name, p) for t in things if (p := files.get(t.hexcode.lower().replace("-fe0f", "")))]
    pictures = [Image.open(p).convert("RGBA").resize((ICON_PX, ICON_PX), Image.Resampling.LANCZOS) for _, p in found]
    (out / f"{style}.rgba").write_bytes(b"".join(p.tobytes() for p in pictures))
    (out / f"{style}.txt").write_text("".join(f"{name}\n" for name, _ in found), "utf-8")
    return len(found)


def inked(rgba: U8) -> U8:
    """An icon of one colour in black on white, uint8 (E, E, 4).

    The areas inside its lines and a rim around them are white; the rest is transparent.
    """
    ink = Image.fromarray(rgba[..., 3])
    near = ImageOps.expand(ink.filter(ImageFilter.MaxFilter(7)).point(lambda a: 255 if a > 64 else 0), 1)
    ImageDraw.floodfill(near, (0, 0), 128)
    paper = near.crop((1, 1, near.width - 1, near.height - 1)).point(lambda v: 0 if v == 128 else 255)
    sheet = Image.merge("RGBA", (*[Image.new("L", ink.size, 255)] * 3, paper.filter(ImageFilter.BoxBlur(1))))
    black = Image.merge("RGBA", (*[Image.new("L", ink.size, 20)] * 3, ink))
    return np.asarray(Image.alpha_composite(sheet, black))


def render(runs: Path) -> None:
    """Renders every set into RUNS/icons and writes RUNS/things.json."""
    node, out = runs / "node", runs / "icons"
    out.mkdir(parents=True, exist_ok=True)
    things = read_things(node)
    (runs / "things.json").write_text(json.dumps([dataclasses.asdict(t) for t in things]), "utf-8")
    for style in SETS:
        make = copy_set if style in RASTER else render_set
        print(f"{style}: {make(node, out, style, things)} of {len(things)} pictures", flush=True)


def load_things(runs: Path) -> list[EmojiThing]:
    """The rendered things with their keywords."""
    rows = json.loads((runs / "things.json").read_text("utf-8"))
    return [EmojiThing(r["name"], r["hexcode"], tuple(r["tags"])) for r in rows]


def load_icons(runs: Path, styles: tuple[str, ...] = tuple(SETS)) -> Icons:
    """(style, name) -> uint8 RGBA (120, 120, 4).

    The pictures are memory-mapped, except those of inked sets.
    """
    icons: dict[tuple[str, str], U8] = {}
    for style in styles:
        names = (runs / "icons" / f"{style}.txt").read_text("utf-8").splitlines()
        raw = np.memmap(runs / "icons" / f"{style}.rgba", np.uint8, "r", shape=(len(names), ICON_PX, ICON_PX, 4))
        drawn = [inked(picture) for picture in raw] if style in INKED else raw
        icons |= {(style, name): drawn[i] for i, name in enumerate(names)}
    return icons
