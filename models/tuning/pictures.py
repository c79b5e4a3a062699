"""Pictures of a run: curves by iteration, and a sheet of images before and after.

Owns their layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.protocols import Images
from models.tuning.state import write_whole

CURVES = ("reward", "referee", "best", "diversity", "artefacts")
"""Measures that are drawn."""

_INK, _ACCENT, _QUIET, _PAPER = "#1c1b1a", "#d4470f", "#a8a49c", "#ffffff"
_TILE, _GAP, _LINE = 128, 6, 22


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], chosen: int | None) -> bool:
    """A PNG with the curve of each measure by iteration; False without matplotlib.

    `chosen` is the iteration of the result. Raises TuningError for a full disk.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6.4, 2 * len(CURVES)), dpi=120)
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(len(CURVES), sharex=True), CURVES, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.plot([row["iteration"] for row in rows], [row[name] for row in rows], "o-", color=_ACCENT)
        axes.axhline(rows[0][name], color=_QUIET, linewidth=1)
        if chosen is not None:
            axes.axvline(chosen, color=_QUIET, linewidth=1, linestyle=":")
        axes.set_ylabel(name)
    figure.axes[-1].set_xlabel("iteration")
    figure.tight_layout()
    write_whole(path, lambda part: figure.savefig(part, format="png"))
    return True


def draw_sheet(path: Path, before: Mapping[str, Images], after: Mapping[str, Images]) -> None:
    """A row a prompt: candidates before, then those of the same seeds after tuning.

    Raises TuningError for a full disk.
    """
    count = len(next(iter(before.values())))
    side = count * (_TILE + _GAP)
    width, height = 2 * side + 3 * _GAP, _LINE + len(before) * (_TILE + _LINE + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw, (font, encoding) = ImageDraw.Draw(sheet), _font(14)
    for left, title in ((_GAP, "before"), (side + 2 * _GAP, "after")):
        draw.text((left, 2), title, _INK, font)
    for place, (prompt, images) in enumerate(before.items()):
        top = _LINE + place * (_TILE + _LINE + _GAP)
        draw.text((_GAP, top), prompt[:90].encode(encoding, "replace").decode(encoding), _INK, font)
        for left, shown in ((_GAP, images), (side + 2 * _GAP, after[prompt])):
            for column, image in enumerate(shown):
                sheet.paste(_tile(image), (left + column * (_TILE + _GAP), top + _LINE - 2))
    write_whole(path, lambda part: sheet.save(part, format="png"))


def _font(size: int) -> tuple[Any, str]:
    """The font of matplotlib or Pillow, and an encoding of what it can draw."""
    try:
        from matplotlib import get_data_path
    except ImportError:
        return ImageFont.load_default(size), "ascii"
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size), "utf-8"


def _tile(image: Any) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image)).resize((_TILE, _TILE), Image.Resampling.BOX)
