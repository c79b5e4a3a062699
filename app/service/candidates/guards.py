"""Guards at work: flags of images, vetoes, and lower scores of images with text.

Owns which images are inspected and which may be returned. Statistics and reading run in threads; the scorers of the
ranking score again what was blurred. What guards find is defined in `models.guards`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.domain import Flag, Notice, Ranking
from app.engine.protocols import Engine
from app.engine.ranking.placement import Placements
from app.errors import Draining, EngineDead, EngineFailed, TooLarge
from models.guards import artefacts
from models.guards.typographic import blur, unquoted_words, written_words
from models.protocols.guards import ARTEFACT, TYPOGRAPHIC, ArtefactLimits, TextInImage, TextReader

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
ImageAt = Callable[[int], Awaitable[Pixels]]
"""Returns the image (H, W, 3) of an index."""

Flags = dict[int, tuple[Flag, ...]]
"""Flags of images, by index."""

FINALISTS = 8
"""Best places of a ranking whose images are read."""

INCOMPLETE = "guard_incomplete"
"""Code of the notice that the typographic guard did not read an image."""

MAX_READINGS = 32
"""Maximum images read for one ranking; only fields full of text reach it."""


@dataclass(slots=True)
class Inspected:
    """What guards found in a field.

    `pool` are the indices that may be returned, `flags` what guards found so far. `read` are the indices whose text
    was read, in `seconds` of all guards together.
    """

    pool: Sequence[int]
    flags: Flags = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    seconds: float = 0.0
    notices: tuple[Notice, ...] = ()

    def add_flag(self, index: int, flag: Flag) -> None:
        """Add a flag of one image."""
        self.flags[index] = (*self.flags.get(index, ()), flag)

    def allowed(self, ranking: Ranking) -> list[int]:
        """The pool without images that have a vetoed flag."""
        vetoed = {i for i, flags in self.flags.items() if any(flag.guard in ranking.veto for flag in flags)}
        return [i for i in self.pool if i not in vetoed]


class RankedField(Protocol):
    """A field with all scorers of its ranking."""

    prompt: str
    ranking: Ranking

    async def place(self, pool: Sequence[int]) -> Placements:
        """Place the candidates when the best of the `pool` are returned."""
        ...

    async def lower(self, index: int, image: Pixels) -> None:
        """Score another image of a candidate; the lower score of every scorer counts."""
        ...


class ImageGuards:
    """See the module. `reader` is None where none is installed. Use in one event loop."""

    def __init__(self, engine: Engine, reader: TextReader | None = None) -> None:
        self._engine = engine
        self._reader = reader
        self._reading = asyncio.Semaphore(1)

    def artefact_limits(self, *, adapted: bool = False) -> ArtefactLimits:
        """Limits of the loaded generator's images.

        Without a calibration, only blank ones are flagged. LoRA adapters (`adapted`) change the statistics.
        """
        known = self._engine.calibration
        measured = known is not None and known.generator == self._engine.generator.revision and not adapted
        return known.artefacts or ArtefactLimits() if known is not None and measured else ArtefactLimits()

    async def place(
        self, ranked: RankedField, found: Inspected, guards: Sequence[str], image_at: ImageAt
    ) -> Placements:
        """Place a field without vetoed images.

        With the typographic guard, the best ones of all scorers are read until every finalist has been read. This
        changes the scores of the field, and `found`.
        """
        words = unquoted_words(ranked.prompt) if TYPOGRAPHIC in guards and self._reader is not None else frozenset()
        if TYPOGRAPHIC in guards and self._reader is None:
            found.notices += (_skipped("no reader of text is installed on this server"),)
        placements = await ranked.place(found.allowed(ranked.ranking))
        while words and (unread := [i for i in placements.returned[:FINALISTS] if i not in found.read]):
            if len(found.read) >= MAX_READINGS:
                found.notices += (_skipped(f"text was read in {MAX_READINGS} images, and others rank beside them"),)
                break
            started = perf_counter()
            try:
                with self._engine.hold():
                    for index in unread:
                        await self._read(ranked, found, index, await image_at(index), words)
            except _ReaderFailed:
                found.notices += (_skipped("the reader of text failed, see the server's log"),)
                break
            except (TooLarge, EngineFailed, Draining, EngineDead) as error:
                log.warning("the typographic guard failed: %s", error)
                found.notices += (_skipped(f"an image could not be scored again: {error.detail}"),)
                break
            finally:
                found.seconds += perf_counter() - started
            placements = await ranked.place(found.allowed(ranked.ranking))
        return placements

    async def _read(
        self, ranked: RankedField, found: Inspected, index: int, image: Pixels, words: frozenset[str]
    ) -> None:
        """Read an image. With words of the prompt, the lower score of every scorer counts."""
        assert self._reader is not None
        found.read.add(index)
        async with self._reading:  # more would only occupy threads
            texts = await asyncio.to_thread(_texts, self._reader, image)
        written = written_words(texts, words)
        if not written:
            return
        found.add_flag(index, Flag(TYPOGRAPHIC, tuple(dict.fromkeys(word for word, _ in written))))
        await ranked.lower(index, await asyncio.to_thread(blur, image, [text for _, text in written]))


class _ReaderFailed(Exception):
    """The reader of text raised an error."""


def _texts(reader: TextReader, image: Pixels) -> Sequence[TextInImage]:
    """The texts in an image.

    Raises _ReaderFailed for any error of the reader, which is a library.
    """
    try:
        return reader.read(image)
    except Exception as error:
        log.exception("the reader of text failed")
        raise _ReaderFailed from error


def inspect(images: Sequence[tuple[int, Pixels]], limits: ArtefactLimits) -> dict[int, Flag]:
    """The flags of images (H, W, 3) with artefacts, by index.

    Takes milliseconds an image: use a thread.
    """
    measured = artefacts.measure_all([image for _, image in images], limits)
    found = ((index, artefacts.reasons(each, limits)) for (index, _), each in zip(images, measured, strict=True))
    return {index: Flag(ARTEFACT, reasons) for index, reasons in found if reasons}


def veto_notices(flags: Flags, ranking: Ranking) -> tuple[Notice, ...]:
    """The notice about images that a veto excludes."""
    vetoed = {
        i: sorted(f.guard for f in found if f.guard in ranking.veto)
        for i, found in sorted(flags.items())
        if any(f.guard in ranking.veto for f in found)
    }
    if not vetoed:
        return ()
    data = {"indices": list(vetoed), "flags": list(vetoed.values())}
    return (Notice("candidates_vetoed", f"images that the veto excludes: {len(vetoed)}", data),)


def _skipped(why: str) -> Notice:
    return Notice(INCOMPLETE, f"the typographic guard did not read every image: {why}", {"guard": TYPOGRAPHIC})
