"""Reads a text for models that know English captions: its language and meaning.

Owns the decision what is translated. A text of words that are English stays as it is, to the letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

from models.protocols.readings import Reading
from models.reading import captions
from models.reading.common_words import common_words
from models.reading.inflection import with_article
from models.reading.lexicon import Kind, Lexicon, Meaning
from models.reading.lookalikes import unmixed
from models.reading.russian import Morphology, plain, without_diminutive
from models.reading.spelling import CYRILLIC, LATIN, corrections
from models.reading.transliteration import spellings

MOST_ODD_WORDS = 32
"""Different words of a text that are looked up in other spellings.

A look-up takes up to 30 ms of the device's thread. Further odd words stay as they are.
"""

_CACHED_TEXTS = 1024
_CACHED_WORDS = 4096
_CYRILLIC_WORD = re.compile(r"[а-яёА-ЯЁіїєґІЇЄҐ]+")
_LATIN_WORD = re.compile(r"[a-zA-Z]+(?:'[a-zA-Z]+)?")
_TOKEN = re.compile(rf"({_CYRILLIC_WORD.pattern})|({_LATIN_WORD.pattern})|(\d+[a-z]?)|([,.;:!?()])|(\S)")
_JOINERS = re.compile("[\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff]")
_ARTICLES = frozenset({"a", "an", "the"})
_LINKS = frozenset({"and", "or", "with", "next", "to", "of", "on", "in", "beside", "by", "behind", "under", "over"})
_EQUAL = frozenset({"and", "or"})


@dataclass(slots=True)
class _Report:
    """What was done to the words of a text.

    `looked_up` are those that were compared with other spellings.
    """

    looked_up: set[str] = field(default_factory=set)
    corrections: dict[str, str] = field(default_factory=dict)
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def may_look_up(self, word: str) -> bool:
        """Whether this word is among the first `MOST_ODD_WORDS`."""
        if len(self.looked_up) < MOST_ODD_WORDS:
            self.looked_up.add(word)
        return word in self.looked_up

    def reading(self, language: str, understood: str) -> Reading:
        return Reading(
            language,
            understood,
            tuple(self.corrections.items()),
            tuple(self.ambiguous.items()),
            tuple(dict.fromkeys(self.unknown)),
        )


@dataclass(slots=True)
class _Token:
    """A word, an emoji or a break; `forms` are those of a word, itself first."""

    text: str
    kind: str
    forms: tuple[str, ...] = ()


class TextFront:
    """See the module. Results are cached; use it in one thread."""

    def __init__(self, lexicon: Path, vocabulary: Path, styles: Sequence[str] = ()) -> None:
        """Take the pack's `words.json` and the text encoder's `vocab.txt`.

        They are read when they are needed. A phrase of `styles` that ends a text after a comma stays as it is.
        """
        self._lexicon_file, self._vocabulary_file = lexicon, vocabulary
        self._endings = tuple(f", {phrase}" for phrase in styles)
        self._morphology = Morphology()
        self.read = lru_cache(_CACHED_TEXTS)(self._read)
        self._from_latin = lru_cache(_CACHED_WORDS)(self._find_from_latin)

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon.read(self._lexicon_file)

    @cached_property
    def _vocabulary(self) -> frozenset[str]:
        """Words that the text encoder has as a whole: they are English, if not the pack's."""
        return frozenset(self._vocabulary_file.read_text("utf-8").split("\n"))

    def _read(self, text: str) -> Reading | None:
        """The reading of a text; None if the model can take the text as it is."""
        ending = next((each for each in self._endings if text.endswith(each)), "")
        if ending:
            head = self.read(text.removesuffix(ending))
            return None if head is None else replace(head, understood=f"{head.understood}{ending}")
        one_script, changed = unmixed(text)
        if changed:
            whole = self.read(one_script) or Reading("en", one_script)
            return replace(whole, corrections=(*changed.items(), *whole.corrections))
        if _CYRILLIC_WORD.search(text):
            return self._translated(text, "ru", frozenset())
        report = _Report()
        english = self._without_emoji(text, report)
        odd = _first(w for w in _LATIN_WORD.findall(english) if not self._is_english(w))
        found = {word: self._english_corrections(word) for word in odd}
        latin = self._transliterated(english, odd, found)
        if latin:
            return self._translated(text, "ru-Latn", latin)
        for word, others in found.items():
            if len(others) == 1:
                report.corrections[word] = others[0]
            elif others:
                report.ambiguous[word] = tuple(others)
        understood = _LATIN_WORD.sub(lambda m: report.corrections.get(m[0], m[0]), english)
        if understood == text and not report.ambiguous:
            return None
        return report.reading("emoji" if english != text else "en", understood)

    # English

    def _is_english(self, word: str) -> bool:
        bare = word.lower().removesuffix("'s").replace("'", "")
        stems = [bare, bare.removesuffix("s"), bare.removesuffix("es")]
        return any(s in self._lexicon.english for s in stems) or any(s in self._vocabulary for s in stems)

    def _english_corrections(self, word: str) -> list[str]:
        known = self._lexicon.english
        if word.lower() in common_words():
            return []
        found = corrections(word.lower(), LATIN, lambda w: w if w in known else None)
        return sorted(found)

    def _without_emoji(self, text: str, report: _Report) -> str:
        """The text with the names of emoji, with an article unless a word before has one.

        Other symbols beside them are left out, and reported.
        """
        if text.isascii():
            return text
        pieces: list[str] = []
        symbols: list[str] = []
        named = False
        for piece in re.findall(r"[\w'-]+|\s+|[^\w\s]", _JOINERS.sub("", text)):
            name = self._lexicon.emoji.get(piece)
            if name is None:
                symbol = unicodedata.category(piece[0]) == "So"
                pieces.append(" " if symbol else piece)
                symbols += [piece] if symbol else []
                continue
            named = True
            before = next((p for p in reversed(pieces) if not p.isspace()), "")
            if before in self._named:
                pieces.append(" and ")
            adjective = before.isalpha() and before.lower() not in _LINKS
            pieces.append(name if adjective or name in self._lexicon.mass else with_article(name))
        if not named:
            return text
        report.unknown += symbols
        return re.sub(r"  +", " ", "".join(pieces)).strip()

    @cached_property
    def _named(self) -> frozenset[str]:
        names = self._lexicon.emoji.values()
        return frozenset({*names, *map(with_article, names)})

    # Russian

    def _transliterated(self, text: str, odd: Sequence[str], english: dict[str, list[str]]) -> frozenset[str]:
        """The words of a Latin text that are Russian; none if no odd word is.

        If Russian words prevail, those count as well that are also English words.
        """
        russian = {word for word in odd if self._from_latin(word)}
        words = _LATIN_WORD.findall(text)
        ours = [word for word in words if word not in odd and word.lower() in self._lexicon.english]
        if len(russian) > len(ours):
            return frozenset(word for word in _first(words) if self._from_latin(word))
        return frozenset(word for word in russian if not english[word] and word.lower() not in common_words())

    def _find_from_latin(self, word: str) -> str | None:
        """The Russian word of the lexicon that is written in Latin letters, if any."""
        for spelt in spellings(word.lower()):
            if self._base(spelt) is not None:
                return spelt
        return None

    def _translated(self, text: str, language: str, latin: frozenset[str]) -> Reading:
        """The reading of a text with Russian words; `latin` ones are in Latin letters."""
        report = _Report()
        tokens = [self._token(match, latin, report) for match in _TOKEN.finditer(_JOINERS.sub("", text))]
        report.unknown += [t.text for t in tokens if t.kind == "mark" and _is_told(t.text)]
        parts = self._parts([t for t in tokens if t.kind not in {"ambiguous", "mark"}], report)
        understood = captions.write(parts, self._lexicon.mass)
        return report.reading(language, understood or text)

    def _token(self, match: re.Match[str], latin: frozenset[str], report: _Report) -> _Token:
        cyrillic, western, number, mark, other = match.groups()
        if cyrillic or western in latin:
            return self._russian_token(cyrillic or self._from_latin(western) or western, report)
        if western:
            return self._english_token(western.lower(), report)
        if number:
            return _Token(number, "word", (number,))
        if mark:
            return _Token(mark, "break")
        return _Token(other, "emoji" if other in self._lexicon.emoji else "mark")

    def _english_token(self, word: str, report: _Report) -> _Token:
        if not self._is_english(word) and report.may_look_up(word):
            others = self._english_corrections(word)
            if len(others) > 1:
                report.ambiguous[word] = tuple(others)
                return _Token(word, "ambiguous")
            if others:
                report.corrections[word] = others[0]
                word = others[0]
        return _Token(word, "word", (word, word.removesuffix("s")))

    def _russian_token(self, text: str, report: _Report) -> _Token:
        """A word with its forms; a misspelt word has those of the only one that it can be."""
        words, known = self._lexicon.russian_words, self._morphology
        word = text.lower()
        forms = known.forms(word)
        if words.isdisjoint(forms):
            forms = (*forms, *(base for form in forms for base in without_diminutive(form) if base in words))
        if not words.isdisjoint(forms) or known.is_known(word) or not report.may_look_up(word):
            return _Token(word, "word", forms)
        others = corrections(plain(word), CYRILLIC, self._base)
        if len(others) == 1:
            right = next(iter(others.values()))
            report.corrections[text] = right
            return _Token(right, "word", known.forms(right))
        if others:
            report.ambiguous[text] = tuple(sorted(others.values()))
            return _Token(word, "ambiguous")
        return _Token(word, "word", forms)

    def _base(self, word: str) -> str | None:
        """The dictionary form of a word of the lexicon; None for any other text."""
        if not self._morphology.is_known(word):
            return None
        return next((form for form in self._morphology.forms(word) if form in self._lexicon.russian_words), None)

    def _parts(self, tokens: Sequence[_Token], report: _Report) -> list[captions.Part]:
        parts: list[captions.Part] = []
        place = 0
        while place < len(tokens):
            token = tokens[place]
            found = self._lexicon.russian.longest(_forms(tokens, place))
            if token.kind == "break":
                parts.append(captions.Break())
            elif token.kind == "emoji":
                parts.append(captions.Word(Kind.THING, self._lexicon.emoji[token.text]))
            elif found is not None:
                length, meaning = found
                if meaning.kind is Kind.THING:
                    parts.append(self._thing(meaning, tokens, place, length, parts, report))
                elif meaning.kind is not Kind.FILLER:
                    parts.append(captions.Word(meaning.kind, meaning.english))
                place += length - 1
            elif token.kind == "word":
                self._keep_unmatched(token, parts, report)
            place += 1
        return parts

    def _keep_unmatched(self, token: _Token, parts: list[captions.Part], report: _Report) -> None:
        if _LATIN_WORD.fullmatch(token.text) and self._is_english(token.text):
            if token.text not in _ARTICLES:
                parts.append(captions.Word(Kind.ADJECTIVE, token.text))
        else:
            report.unknown.append(token.text)
            captions.drop_open_relation(parts)

    def _thing(
        self,
        meaning: Meaning,
        tokens: Sequence[_Token],
        place: int,
        length: int,
        parts: Sequence[captions.Part],
        report: _Report,
    ) -> captions.Word:
        """A thing with the number of its noun."""
        words = [t.text for t in tokens[place : place + length]]
        head = next(
            (i for i, w in enumerate(words) if _CYRILLIC_WORD.fullmatch(w) and self._morphology.is_noun(w)), None
        )
        if head is None:
            return captions.Word(meaning.kind, meaning.english)
        before = words[head - 1] if head else tokens[place - 1].text if place else ""
        adjective = before if _CYRILLIC_WORD.fullmatch(before) else None
        left_out = before in report.unknown and self._morphology.governs(before)
        governed = _governs(parts) or left_out
        follows = bool(parts) and isinstance(last := parts[-1], captions.Word) and last.kind is Kind.THING
        genitive = follows and self._morphology.is_genitive(words[head])
        several = self._morphology.is_plural(words[head], adjective, governed=governed or genitive)
        return captions.Word(meaning.kind, meaning.english, several, genitive)


def _governs(parts: Sequence[captions.Part]) -> bool:
    """Whether a noun that follows depends on the last part: a preposition, or a frame."""
    last = parts[-1] if parts else None
    if not isinstance(last, captions.Word):
        return False
    linked = last.kind is Kind.RELATION and last.english not in _EQUAL
    return linked or last.kind in (Kind.FRAME, Kind.BACKGROUND)


def _forms(tokens: Sequence[_Token], place: int) -> Iterator[tuple[str, ...]]:
    """The forms of the words from `place` on, up to the first token that is none.

    Hyphens join words.
    """
    while place < len(tokens) and tokens[place].kind == "word":
        yield tokens[place].forms
        place += 1


def _is_told(mark: str) -> bool:
    """Whether a mark that is left out is reported: all but punctuation."""
    return not mark.isascii() and mark.isprintable() and not unicodedata.category(mark).startswith("P")


def _first(words: Iterable[str]) -> list[str]:
    """The first `MOST_ODD_WORDS` different words, in order."""
    return list(islice(dict.fromkeys(words), MOST_ODD_WORDS))
