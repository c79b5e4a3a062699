"""Contact sheet: a ranked field of candidates in one image. Owns its layout.

The caller provides order and numbers. Pillow's built-in font is used, which has ASCII letters only; for other titles a
font of the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

TILE_SIDE = 256
"""Target size of an image in pixels; small ones grow by integer factors."""

FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "Arial.ttf")
"""Fonts of systems, with further letters.

The first one that has those of the title draws it.
"""

_MARGIN, _GAP, _PAD, _TEXT = 28, 20, 12, 92
_NO_LETTER = "\uffff"
_PAPER, _CARD, _EDGE = "#f4f3ef", "#ffffff", "#dcdad2"
_INK, _QUIET, _FAINT, _ACCENT = "#1d1d1b", "#6d6b64", "#a29f95", "#d9480f"


@dataclass(frozen=True, slots=True)
class Caption:
    """The caption of an image.

    `rank` None marks an unfinished one; `note` replaces the cosines.
    """

    seed: int
    rank: int | None = None
    score: float | None = None
    similarity: float | None = None
    penalty: float | None = None
    note: str = ""


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[Caption],
    columns: int = 4,
    title: str = "",
    plain_title: str = "",
) -> NDArray[np.uint8]:
    """Draw a sheet (H, W, 3) of images (H, W, 3) of any sizes, `columns` per row.

    The best image has a frame; the bar under an image shows its score within the field. `plain_title` replaces a title
    whose letters no font has. Raises ValueError without images.
    """
    if not images or len(images) != len(captions) or columns < 1:
        raise ValueError("images must not be empty, captions must match images, and columns must be at least 1")
    columns = min(columns, len(images))
    pictures = [_fit_to_tile(image) for image in images]
    card = TILE_SIDE + 2 * _PAD, TILE_SIDE + 2 * _PAD + _TEXT
    top = _MARGIN + (52 if title else 0)
    rows = -(-len(images) // columns)
    width = 2 * _MARGIN + columns * card[0] + (columns - 1) * _GAP
    sheet = Image.new("RGB", (width, top + rows * card[1] + (rows - 1) * _GAP + _MARGIN), _PAPER)
    if title:
        font = _title_font(title, 26)
        title, font = (title, font) if font is not None else (plain_title or title, _font(26))
        _write(sheet, (_MARGIN, _MARGIN - 2), _truncated(title, font, width - 2 * _MARGIN), font, _INK, bold=True)
    for place, (picture, caption, share) in enumerate(zip(pictures, captions, _shares(captions), strict=True)):
        row, column = divmod(place, columns)
        corner = _MARGIN + column * (card[0] + _GAP), top + row * (card[1] + _GAP)
        _draw_card(sheet, corner, card, picture, caption, share)
    return np.array(sheet)


def _draw_card(
    sheet: Image.Image,
    corner: tuple[int, int],
    size: tuple[int, int],
    picture: Image.Image,
    caption: Caption,
    share: float,
) -> None:
    left, top = corner[0] + _PAD, corner[1] + _PAD
    right, base = left + TILE_SIDE, top + TILE_SIDE
    colour = _ACCENT if caption.rank == 1 else _INK if caption.rank else _FAINT
    sheet.paste(_blank_card(size, framed=caption.rank == 1), corner)
    sheet.paste(picture, (left + (TILE_SIDE - picture.width) // 2, top + (TILE_SIDE - picture.height) // 2))
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, base + 8, right - 1, base + 11), _EDGE)
    if share:
        draw.rectangle((left, base + 8, left + round(TILE_SIDE * share) - 1, base + 11), colour)
    _write_caption(sheet, caption, left, right, base + 20, colour)


def _blank_card(size: tuple[int, int], *, framed: bool) -> Image.Image:
    """Draw an empty card, four times as large and reduced, for smooth corners."""
    card = Image.new("RGB", (4 * size[0], 4 * size[1]), _PAPER)
    edge, thickness = (_ACCENT, 12) if framed else (_EDGE, 4)
    box = (0, 0, card.width - 1, card.height - 1)
    ImageDraw.Draw(card).rounded_rectangle(box, 40, _CARD, edge, thickness)
    return card.reduce(4)


def _write_caption(sheet: Image.Image, caption: Caption, left: int, right: int, y: int, colour: str) -> None:
    rank = f"#{caption.rank}" if caption.rank else "-"
    score = f"{caption.score:.3f}" if caption.score is not None else "no score"
    _write(sheet, (left, y), rank, _font(24), colour, bold=True)
    _write(sheet, (right, y), score, _font(24), _INK if caption.rank else _QUIET, bold=True, anchor="ra")
    _write(sheet, (left, y + 34), _details(caption), _font(15), _QUIET)
    _write(sheet, (left, y + 54), f"seed {caption.seed}", _font(15), _QUIET)


def _details(caption: Caption) -> str:
    if caption.note or caption.similarity is None or caption.penalty is None:
        return caption.note
    return f"similarity {caption.similarity:.3f}   penalty {caption.penalty:.3f}"


def _shares(captions: Sequence[Caption]) -> list[float]:
    """Scale scores from 0.04 for the lowest to 1 for the highest; 0 without a score."""
    scores = [c.score for c in captions if c.score is not None]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    span = high - low
    return [0.0 if c.score is None else 1.0 if not span else 0.04 + 0.96 * (c.score - low) / span for c in captions]


def _fit_to_tile(image: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(image)
    longest = max(picture.size)
    if longest > TILE_SIDE:
        size = max(1, picture.width * TILE_SIDE // longest), max(1, picture.height * TILE_SIDE // longest)
        return picture.resize(size, Image.Resampling.LANCZOS)
    times = TILE_SIDE // longest
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _write(
    sheet: Image.Image,
    at: tuple[int, int],
    text: str,
    font: Font,
    colour: str,
    *,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text(at, text, colour, font, anchor, stroke_width=0.5 if bold else 0, stroke_fill=colour)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _title_font(text: str, size: int) -> Font | None:
    """A font that has all letters of the text; None if there is none."""
    if text.isascii():
        return _font(size)
    for name in FONTS:
        with suppress(OSError):
            font = ImageFont.truetype(name, size)
            missing = bytes(font.getmask(_NO_LETTER))
            if all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in set(text)):
                return font
    return None


def _truncated(text: str, font: Font, width: int) -> str:
    """Cut `text` at a word, with an ellipsis, to fit `width` pixels."""
    words = text.split()
    if font.getlength(" ".join(words)) <= width:
        return " ".join(words)
    while len(words) > 1 and font.getlength(" ".join(words) + " ...") > width:
        words.pop()
    return " ".join(words) + " ..."
