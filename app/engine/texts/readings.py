"""Warnings about texts that a model read in other words. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from app.domain import Notice
from models.protocols import Reading

TRANSLATED = "prompt_translated"
CORRECTED = "spelling_corrected"


def reading_notices(readings: Iterable[tuple[str, str, Reading | None]]) -> tuple[Notice, ...]:
    """Say for each text what the models understood, once for both models.

    `readings` hold the model ("generator" or "scorer"), the text and its reading.
    """
    models: dict[str, list[str]] = {}
    known: dict[str, Reading] = {}
    for model, text, reading in readings:
        if reading is not None:
            known.setdefault(text, reading)
            models.setdefault(text, []).append(model)
    return tuple(
        notice for text, reading in known.items() for notice in _notices(text, reading, [*dict.fromkeys(models[text])])
    )


def understood(notices: Sequence[Notice], *texts: str) -> tuple[str | None, str | None]:
    """Language and caption of the first of these texts that was not read as it is."""
    for text in texts:
        for notice in notices:
            if notice.code in {TRANSLATED, CORRECTED} and notice.data["text"] == text:
                return notice.data["prompt_language"], notice.data["understood"]
    return None, None


def read_by_scorer(notices: Sequence[Notice], text: str) -> str:
    """The caption that the scorer read a text as, or the text."""
    for notice in notices:
        if notice.code in {TRANSLATED, CORRECTED} and notice.data["text"] == text and "scorer" in notice.data["models"]:
            return str(notice.data["understood"])
    return text


def _notices(text: str, reading: Reading, models: Sequence[str]) -> Iterator[Notice]:
    read: Mapping[str, object] = {
        "text": text,
        "prompt_language": reading.language,
        "understood": reading.understood,
        "models": models,
    }
    if reading.language != "en" and reading.understood != text:
        detail = (
            f"the model knows English captions and read {reading.understood!r}: write it in English if that is wrong"
        )
        yield Notice(TRANSLATED, detail, read)
    if reading.corrections:
        corrections = dict(reading.corrections)
        told = ", ".join(f"{word!r} was read as {right!r}" for word, right in reading.corrections)
        detail = f"{told}: write the word differently if another one was meant"
        yield Notice(CORRECTED, detail, {**read, "corrections": corrections})
    for word, others in reading.ambiguous:
        detail = f"{word!r} is unknown and may stand for several words, none of which was taken: correct it"
        yield Notice("spelling_ambiguous", detail, {"text": text, "word": word, "candidates": list(others)})
    if reading.unknown:
        told = ", ".join(map(repr, reading.unknown))
        detail = f"left out {told}, not in the model's dictionary: use other words"
        yield Notice("words_not_understood", detail, {"text": text, "words": list(reading.unknown)})
