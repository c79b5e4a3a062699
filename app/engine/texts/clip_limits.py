"""Parts of prompts that CLIP cannot judge: negation, numbers of things, positions.

CLIP was trained on captions of the whole image, which rarely depend on counts or sides. The patterns are conservative:
a missed warning costs nothing, a false one confuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from app.domain import Notice
from app.engine.texts.negation import negation_notices, without_quotes

_NUMBER = (
    r"(?:three|four|five|six|seven|eight|nine|ten|eleven|twelve|a dozen|[3-9]|1\d|20|"
    r"три|четыре|пять|шесть|семь|восемь|девять|десять|одиннадцать|двенадцать|дюжина)"
)
_UNIT = (
    r"(?:years?|months?|weeks?|days?|hours?|minutes?|seconds?|o'?clock|percent|mm|cm|km|meters?|metres?|feet|foot|inch(?:es)?|"
    r"degrees?|points?|pixels?|kings?|seasons?|times|parts?|d\b|k\b|лет|год\w*|месяц\w*|недел\w*|дн\w*|час\w*|минут\w*|"
    r"секунд\w*|процент\w*|метр\w*|километр\w*|градус\w*|раз\w*)\b"
)
_JOIN = r"(?:and|or|on|in|at|under|over|near|next|by|with|of|from|и|или|на|в|во|под|над|у|с|со)\b"
_COUNT = re.compile(
    rf"(?<![\w.:/-]){_NUMBER}(?![\w.:/-])(?: (?!{_UNIT}|{_JOIN})[^\W\d_]+){{1,3}}?(?=\s*(?:[,.;:!?()]|$)|\s+{_JOIN})",
    re.IGNORECASE,
)
_POSITION = re.compile(
    r"\b(?:to the (?:left|right) of|(?:left|right) of (?!way\b|passage\b)|on the (?:left|right)(?: side)?|"
    r"(?:above|below|beneath|underneath|behind|in front of) (?:a|an|the)\b(?! (?:scenes|wheel|counter))|"
    r"слева|справа|левее|правее|позади|сверху над|снизу под)",
    re.IGNORECASE,
)


def clip_limit_notices(prompt: str, negatives: Sequence[str], *, judges_positions: bool = False) -> tuple[Notice, ...]:
    """Warn about each part of a prompt that a scorer like CLIP does not understand.

    Not about positions if a scorer `judges_positions`.
    """
    positions = () if judges_positions else _position_notices(prompt)
    return (*negation_notices(prompt, negatives), *_count_notices(prompt), *positions)


def _count_notices(prompt: str) -> Iterator[Notice]:
    for found in _parts(_COUNT, prompt):
        yield Notice(
            "count_in_prompt",
            f"CLIP hardly counts: images with another number than {found!r} can rank first. Compare the images "
            "yourself, or send one with the right number in `ranking.references`",
            {"text": found},
        )


def _position_notices(prompt: str) -> Iterator[Notice]:
    for found in _parts(_POSITION, prompt):
        yield Notice(
            "position_in_prompt",
            f"CLIP hardly sees positions: images that swap the things around {found!r} can rank first. Compare the "
            "images yourself, send one that is right in `ranking.references`, or rank by a scorer `layout:...` of "
            '`/v1/models` with `pruning: "off"`',
            {"text": found},
        )


def _parts(pattern: re.Pattern[str], prompt: str) -> list[str]:
    return list(dict.fromkeys(found[0].strip() for found in pattern.finditer(without_quotes(prompt))))
