"""Russian morphology for phrases: dictionary forms, number, diminutives.

pymorphy3 and its dictionaries (25 MB, a quarter of a second) are loaded with the first word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any

_UNLIKELY = 0.04
"""A dictionary form of less than this share is ignored."""

_CERTAIN = 0.8
"""A case of more than this share is the only one."""

_MOST_WORDS = 4096
_DIRECT = frozenset({"nomn", "accs"})
_OBLIQUE = frozenset({"gent", "datv", "ablt", "loct"})
_ADJECTIVES = frozenset({"ADJF", "PRTF"})

_DIMINUTIVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ышко", ("ло", "о")),
    ("ушко", ("о",)),
    ("юшко", ("е",)),
    ("очко", ("ко", "о")),
    ("ечко", ("це", "о", "ко")),
    ("очек", ("ок",)),
    ("ечек", ("ек", "ец")),
    ("енок", ("",)),
    ("очка", ("ка", "а")),
    ("ечка", ("ка", "а", "я", "ца")),
    ("ушка", ("а", "ка")),
    ("юшка", ("я",)),
    ("ишка", ("", "а")),
    ("чик", ("", "к", "ц")),
    ("ик", ("", "ь")),
    ("ок", ("",)),
    ("ек", ("",)),
    ("ка", ("а", "я", "ь", "")),
    ("це", ("о",)),
    ("цо", ("о",)),
)
_SHORTEST_STEM = 4
_HARDENED = {"ч": "к", "ж": "г", "ш": "х"}


def plain(word: str) -> str:
    """The word in lower case, with е for ё."""
    return word.lower().replace("ё", "е")


class Morphology:
    """Forms of words; results are cached. One thread."""

    def __init__(self) -> None:
        self.lemmas = lru_cache(_MOST_WORDS)(self._lemmas)

    @cached_property
    def _analyzer(self) -> Any:
        import pymorphy3

        return pymorphy3.MorphAnalyzer(lang="ru")

    def is_known(self, word: str) -> bool:
        """Whether the dictionary holds this form."""
        return bool(self._analyzer.word_is_known(word))

    def forms(self, word: str) -> tuple[str, ...]:
        """The word itself, then its dictionary forms by likelihood, with е for ё."""
        return tuple(dict.fromkeys((plain(word), *self.lemmas(word))))

    def _lemmas(self, word: str) -> tuple[str, ...]:
        shares: dict[str, float] = {}
        for parse in self._analyzer.parse(word):
            form = plain(parse.normal_form)
            shares[form] = shares.get(form, 0.0) + parse.score
        likely = [form for form, share in shares.items() if share >= _UNLIKELY]
        return tuple(sorted(likely, key=lambda form: -shares[form]))

    def is_adjective(self, word: str) -> bool:
        """Whether the word is an adjective or a participle."""
        return bool(self._analyzer.parse(word)[0].tag.POS in _ADJECTIVES)

    def is_noun(self, word: str) -> bool:
        """Whether the word may be a noun."""
        return any(parse.tag.POS == "NOUN" for parse in self._analyzer.parse(word))

    def governs(self, word: str) -> bool:
        """Whether a noun may depend on the word: on another noun, or on a preposition."""
        return any(parse.tag.POS in {"NOUN", "PREP"} for parse in self._analyzer.parse(word))

    def is_plural(self, noun: str, adjective: str | None, *, governed: bool) -> bool:
        """Whether a noun stands for several.

        `adjective` is the word before it: if it is one, the noun has the number in which both agree. `governed` nouns
        follow a preposition or depend on another noun. A noun without a singular never does. The likeliest noun of the
        form counts: коты are cats before they are boots.
        """
        tags = [parse.tag for parse in self._analyzer.parse(noun) if parse.tag.POS == "NOUN"]
        if not self.is_known(noun) or not tags or "Pltm" in tags[0]:
            return False
        if adjective is not None:
            agreed = self._agreed_numbers(adjective, tags)
            if agreed:
                return agreed == {"plur"}
            if self.is_adjective(adjective):
                return bool(self._analyzer.parse(adjective)[0].tag.number == "plur")
        cases = [tag for tag in tags if tag.case in (_OBLIQUE if governed else _DIRECT)]
        cases = cases or (tags if governed else [])
        return bool(cases) and all(tag.number == "plur" for tag in (cases[:1] if governed else cases))

    def _agreed_numbers(self, adjective: str, nouns: Iterable[Any]) -> set[str]:
        """Numbers in which an adjective has the case of one of these tags."""
        tags = [parse.tag for parse in self._analyzer.parse(adjective) if parse.tag.POS in _ADJECTIVES]
        return {noun.number for noun in nouns for tag in tags if (tag.case, tag.number) == (noun.case, noun.number)}

    def is_genitive(self, noun: str) -> bool:
        """Whether a form can only depend on another noun: a bouquet of roses."""
        parses = [parse for parse in self._analyzer.parse(noun) if parse.tag.POS == "NOUN"]
        genitive = [parse.score for parse in parses if parse.tag.case == "gent"]
        return bool(sum(genitive) > _CERTAIN * sum(parse.score for parse in parses))


def without_diminutive(word: str) -> Iterator[str]:
    """Words that a diminutive may come from: яблочко from яблоко, столик from стол."""
    word = plain(word)
    for ending, others in _DIMINUTIVES:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            stems = [stem, *([stem[:-1] + _HARDENED[stem[-1]]] if stem[-1] in _HARDENED else [])]
            yield from (base + other for base in stems for other in others if len(base) >= _SHORTEST_STEM)
