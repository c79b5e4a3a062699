"""Negations in prompts: CLIP finds what a text names, also behind "without".

The patterns are conservative: a missed negation costs nothing, a false warning confuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from app.domain import Notice

_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)")
"""Quoted text is text to draw."""

_THING = r"(?P<thing>[^\W\d_][\w'-]*(?: [^\W\d_][\w'-]*){0,4}?)"
_END = (
    r"(?=\s*(?:[,.;:!?()]|$)|\s+(?:and|or|but|with|while|on|in|at|under|over|near|next|by|from|of|that|which|standing|"
    r"и|или|но|с|со|на|в|во|под|над|у|около|рядом|стоит|лежит)\b)"
)
_ARTICLE = r"(?:(?:a|an|any|the) )?"

_PATTERNS = tuple(
    re.compile(pattern + _END, re.IGNORECASE)
    for pattern in (
        rf"\b(?:without|with no|but no|and no) {_ARTICLE}{_THING}",
        rf"(?:^|[,;.] ?)no {_THING}(?=\s*(?:[,;.]|$))",
        rf"(?:\bnot|n't|\bnever) (?:wearing|showing|containing|having|holding|including) {_ARTICLE}{_THING}",
        rf"\bбез (?:всяких |всякого |каких-либо )?{_THING}",
        rf"(?:^|[,;.] ?)(?:и )?(?:никаких|никакого|никакой) {_THING}",
    )
)

_FIGURATIVE = re.compile(
    r"(?:borders|doubt|end|limits?|fail|exception|reason|compare|equal|one|longer|more|man's|smoking|parking|entry|"
    r"idea|way|matter|problem|сомнени\w*|конца|границ\w*|края|остатка|умолку|разницы|четверти|пяти|десяти|исключени\w*|"
    r"меры|устали|следа)\b|.*\b(?:signs?|symbol|logo|знак\w*)$",
    re.IGNORECASE,
)
"""What does not name a thing to leave out: idioms, titles, signs that forbid."""


def negation_notices(prompt: str, negatives: Sequence[str]) -> tuple[Notice, ...]:
    """Warn about each negation, with the negative prompt that works instead.

    No warning for what the negatives already name.
    """
    known = " ".join(negatives).casefold()
    return tuple(
        Notice(
            "negation_in_prompt",
            f"CLIP does not understand negation and looks for {thing!r}: remove {text!r} from the prompt and send "
            f"{thing!r} as `negative_prompt`",
            {"text": text, "negative_prompt": thing},
        )
        for text, thing in _negations(prompt)
        if thing.casefold() not in known
    )


def without_quotes(text: str) -> str:
    """The text in one line, with quoted parts blanked: they are text to draw."""
    return _QUOTED.sub(lambda quoted: "_" * len(quoted[0]), " ".join(text.split()))


def _negations(prompt: str) -> Iterator[tuple[str, str]]:
    """Each negation, and what it negates, in the order of the patterns."""
    plain = without_quotes(prompt)
    seen = set[str]()
    for pattern in _PATTERNS:
        for found in pattern.finditer(plain):
            thing = found["thing"]
            if not _FIGURATIVE.match(thing) and thing not in seen:
                seen.add(thing)
                yield found[0].strip(",;. "), thing
