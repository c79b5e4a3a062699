"""English articles and plurals, as far as captions need them."""

from __future__ import annotations

_IRREGULAR = {"mouse": "mice", "goose": "geese", "tooth": "teeth", "child": "children", "man": "men", "woman": "women"}
_SAME = frozenset({"sheep", "fish", "deer", "moose", "squid", "shrimp", "salmon", "sushi", "aircraft"})
_ENDINGS = (("lf", "lves"), ("af", "aves"), ("ife", "ives"))
_AN = ("umbrella", "hour")
_CONSONANT = ("uni", "euro", "one ", "one-")


def with_article(phrase: str) -> str:
    """The phrase with `a` or `an` before it."""
    lower = phrase.lower()
    vowel = (lower[0] in "aeio" and not lower.startswith(_CONSONANT)) or lower.startswith(_AN)
    return f"{'an' if vowel else 'a'} {phrase}"


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase takes no article because it is a plural already."""
    last = _head(phrase)[1]
    return last.endswith("s") and not last.endswith(("ss", "us", "is"))


def plural(phrase: str) -> str:
    """The plural of a noun phrase: `cup of coffee` becomes `cups of coffee`."""
    before, noun, after = _head(phrase)
    if is_plural(phrase) or noun in _SAME:
        return phrase
    return f"{before}{_plural_noun(noun)}{after}"


def _head(phrase: str) -> tuple[str, str, str]:
    """The noun that takes the ending, with the text before and after it."""
    for link in (" of ", " with ", " in ", " on "):
        if link in phrase:
            first, rest = phrase.split(link, 1)
            before, _, noun = first.rpartition(" ")
            return before + " " * bool(before), noun, link + rest
    before, _, noun = phrase.rpartition(" ")
    return before + " " * bool(before), noun, ""


def _plural_noun(noun: str) -> str:
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    for ending, changed in _ENDINGS:
        if noun.endswith(ending):
            return noun[: -len(ending)] + changed
    if noun.endswith(("s", "x", "z", "ch", "sh")) or noun in {"potato", "tomato"}:
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
