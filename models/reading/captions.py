"""Writes an English caption of the words that were understood.

Adjectives are put before their thing, in a fixed order; places and backgrounds follow it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from models.reading.inflection import is_plural, plural, with_article
from models.reading.lexicon import Kind

_MODIFIERS = (Kind.SIZE, Kind.ADJECTIVE, Kind.COLOUR)
"""The order of modifiers before a thing."""


@dataclass(frozen=True, slots=True)
class Word:
    """A phrase that was understood: what it does, in English, and its number.

    `genitive`: it can only depend on the thing before it.
    """

    kind: Kind
    english: str
    plural: bool = False
    genitive: bool = False


@dataclass(frozen=True, slots=True)
class Break:
    """A comma, or the end of a sentence."""


Part: TypeAlias = Word | Break


@dataclass(slots=True)
class _Noun:
    """A thing with its modifiers and place, and its link to the one before."""

    thing: Word
    modifiers: list[Word]
    link: str = ""
    place: str = ""
    frame: str = ""


@dataclass(slots=True)
class _Draft:
    """The caption so far: things, then what holds for the whole picture.

    `waiting` modifiers belong to the next thing, `loose` ones to none.
    """

    nouns: list[_Noun] = field(default_factory=list)
    waiting: list[Word] = field(default_factory=list)
    link: str = ""
    place: str = ""
    frame: str = ""
    loose: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)


def write(parts: Sequence[Part], mass: Collection[str]) -> str:
    """The caption of these parts; "" if nothing of them can be drawn.

    Things in `mass` take no article.
    """
    draft = _Draft()
    for part in _with_backgrounds(list(parts)):
        if isinstance(part, Break):
            _attach(draft)
            draft.loose += [word.english for word in _ordered(draft.waiting)]
            draft.waiting, draft.link = [], draft.link if draft.link == "and" else ", "
        elif part.kind is Kind.THING:
            _add(draft, part)
        elif part.kind in (*_MODIFIERS, Kind.COUNT):
            draft.waiting.append(part)
        else:
            _note(draft, part)
    _attach(draft)
    _put_anchor_last(draft.nouns)
    things = "".join(_phrase(noun, first=place == 0, mass=mass) for place, noun in enumerate(draft.nouns))
    waiting = "" if things else " ".join([w.english for w in _ordered(draft.waiting)])
    alone = "" if things else draft.place
    return _joined([text for text in (*draft.loose, things or waiting, alone, *draft.whole) if text])


def drop_open_relation(parts: list[Part]) -> None:
    """Drop a preposition whose thing is unknown, with the modifiers of that thing."""
    place = len(parts)
    while place and _is(parts[place - 1], *_MODIFIERS, Kind.COUNT):
        place -= 1
    if place and _is(parts[place - 1], Kind.RELATION):
        del parts[place - 1 :]


def _put_anchor_last(nouns: list[_Noun]) -> None:
    """Write "left of the house, a tree" as "a tree left of the house"."""
    if len(nouns) > 1 and nouns[0].link not in {"", "without", "and", "with", ", "} and nouns[1].link == ", ":
        first, second = nouns[0], nouns[1]
        second.link, nouns[0], nouns[1] = "", second, first


def _note(draft: _Draft, part: Word) -> None:
    if part.kind is Kind.PLACE:
        _attach(draft)
        if draft.nouns and not draft.nouns[-1].place and not draft.link:
            draft.nouns[-1].place = part.english
        else:
            draft.place = part.english
    elif part.kind is Kind.RELATION:
        _attach(draft)
        draft.link = part.english
    elif part.kind is Kind.FRAME:
        draft.frame = part.english
    elif part.kind in (Kind.STYLE, Kind.BACKGROUND):
        _attach(draft)
        draft.whole.append(part.english)


def _add(draft: _Draft, thing: Word) -> None:
    if draft.nouns and draft.nouns[-1].thing == thing and not draft.link and not draft.waiting:
        return  # the word and its emoji
    link = draft.link or (("of" if thing.genitive else ", ") if draft.nouns else "")
    draft.nouns.append(_Noun(thing, draft.waiting, link, draft.place, draft.frame))
    draft.waiting, draft.link, draft.place, draft.frame = [], "", "", ""


def _attach(draft: _Draft) -> None:
    """Give modifiers that follow a thing to it: яблоко красное."""
    if draft.nouns and draft.waiting:
        draft.nouns[-1].modifiers += draft.waiting
        draft.waiting = []


def _with_backgrounds(parts: list[Part]) -> list[Part]:
    """Backgrounds and their colours, as one part each: "on a white background"."""
    done: list[Part] = []
    while parts:
        part = parts.pop(0)
        if isinstance(part, Word) and part.kind is Kind.BACKGROUND:
            colours = _taken_colours(done, parts)
            preposition = _taken_preposition(done)
            if colours:
                text = with_article(f"{' '.join(colours)} background")
                done.append(Word(Kind.BACKGROUND, f"{preposition or 'on'} {text}"))
            elif parts and preposition == "on":
                done.append(Word(Kind.RELATION, "in front of"))
        else:
            done.append(part)
    return _with_plain_backgrounds(done)


def _taken_colours(before: list[Part], after: list[Part]) -> list[str]:
    """The colours of a background, taken out of the parts before or after it."""
    found: list[str] = []
    while before and _is(before[-1], Kind.COLOUR, Kind.ADJECTIVE):
        found.insert(0, _english(before.pop()))
    while not found and after and _is(after[0], Kind.COLOUR):
        found.append(_english(after.pop(0)))
    return found


def _taken_preposition(before: list[Part]) -> str:
    if before and _is(before[-1], Kind.RELATION) and _english(before[-1]) in {"on", "with", "in"}:
        return {"in": "on"}.get(text := _english(before.pop()), text)
    return ""


def _with_plain_backgrounds(parts: list[Part]) -> list[Part]:
    """The colour of "на белом" as a background: "on white"."""
    done: list[Part] = []
    for place, part in enumerate(parts):
        after = parts[place + 1] if place + 1 < len(parts) else Break()
        colour = _is(part, Kind.COLOUR) and done and _is(done[-1], Kind.RELATION) and _english(done[-1]) == "on"
        if colour and not _is(after, *_MODIFIERS, Kind.THING):
            done[-1] = Word(Kind.BACKGROUND, f"on {_english(part)}")
        else:
            done.append(part)
    return done


def _is(part: Part, *kinds: Kind) -> bool:
    return isinstance(part, Word) and part.kind in kinds


def _english(part: Part) -> str:
    assert isinstance(part, Word)
    return part.english


def _ordered(words: Sequence[Word]) -> list[Word]:
    return [word for kind in (Kind.COUNT, *_MODIFIERS) for word in words if word.kind is kind]


def _phrase(noun: _Noun, *, first: bool, mass: Collection[str]) -> str:
    counts = [word.english for word in noun.modifiers if word.kind is Kind.COUNT]
    several = noun.thing.plural or any(count != "one" for count in counts)
    own = noun.thing.english.split()
    modifiers = [w.english for w in _ordered(noun.modifiers) if w.english not in own]
    text = " ".join([*modifiers, plural(noun.thing.english) if several else noun.thing.english])
    bare = several or counts or noun.thing.english in mass or is_plural(noun.thing.english)
    text = text if bare else with_article(text)
    text = f"{noun.frame} {text}" if noun.frame else text
    text = f"{text} {noun.place}" if noun.place else text
    if first:
        return f"without {text}" if noun.link == "without" else text
    return f"{noun.link}{text}" if noun.link.startswith(",") else f" {noun.link} {text}"


def _joined(texts: Sequence[str]) -> str:
    """Texts of a caption; those that begin with a preposition need no comma."""
    joined = ""
    for text in texts:
        loose = text.startswith(("on ", "in ", "with ", "as "))
        joined += text if not joined else f" {text}" if loose else f", {text}"
    return joined
