"""The safety classifier at work: modes of requests, verdicts of images.

Owns when the classifier is loaded and run, which is in a thread. A classifier that fails, or returns no number, flags
the image. No verdict is a guarantee.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from app.domain import Event, Notice, Safety, SafetyVerdict, strictest
from app.errors import PromptListed, SafetyRequired, SafetyUnavailable
from models.errors import ModelError
from models.guards.safety.words import WordList
from models.protocols.safety import SafetyClassifier, SafetyInfo

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

KEPT_VERDICTS = 4096
"""Verdicts of images that were made again, which are kept in memory."""


@dataclass(frozen=True, slots=True)
class SafetySettings:
    """How images are classified.

    `load` loads the classifier `name`; None where there is none. `default` is the mode of requests that name none; they
    cannot weaken a default of `veto`. `words` are those that prompts should not have.
    """

    name: str = ""
    load: Callable[[], SafetyClassifier] | None = None
    default: Safety = Safety.OFF
    words: WordList = field(default_factory=WordList)


class SafetyChecker:
    """See the module. Use in one event loop; `preload` may run in any thread."""

    def __init__(self, settings: SafetySettings) -> None:
        self._settings = settings
        self._classifier: SafetyClassifier | None = None
        self._lock = threading.Lock()
        self._in_use = threading.Lock()
        self._running = asyncio.Semaphore(1)
        self._known: OrderedDict[tuple[str, int], SafetyVerdict] = OrderedDict()

    @property
    def available(self) -> bool:
        """Whether there is a classifier."""
        return self._settings.load is not None

    @property
    def default(self) -> Safety:
        """The mode of requests that name none."""
        return self._settings.default

    @property
    def info(self) -> SafetyInfo | None:
        """The classifier, once it is loaded."""
        return self._classifier.info if self._classifier is not None else None

    @property
    def name(self) -> str | None:
        """The name of the classifier; None if there is none."""
        return self._settings.name if self.available else None

    def turn_off(self) -> None:
        """Go on without the classifier."""
        self._settings = NO_SAFETY

    def preload(self) -> None:
        """Load the classifier. Raises SafetyUnavailable."""
        with self._lock:
            if self._classifier is None:
                self._classifier = self._load()

    def admit(self, asked: Safety | None, texts: Iterable[str]) -> tuple[Safety, tuple[Notice, ...]]:
        """The mode of a request that samples from these texts, and warnings about them.

        Raises SafetyRequired, SafetyUnavailable, and PromptListed under `veto`.
        """
        mode = self.default if asked is None else asked
        if self.default is Safety.VETO and mode is not Safety.VETO:
            raise SafetyRequired("this server requires the safety mode veto: omit `safety`", pointer="#/safety")
        if mode is Safety.OFF:
            return mode, ()
        if not self.available:
            raise SafetyUnavailable("this server has no safety classifier: send `off` or omit it", pointer="#/safety")
        found = tuple(dict.fromkeys(word for text in texts for word in self._settings.words.found(text)))
        if not found:
            return mode, ()
        listed = ", ".join(found)
        if mode is Safety.VETO:
            raise PromptListed(f"the prompt has words of the server's list ({listed}): remove them", pointer="#/prompt")
        detail = f"the prompt has words of the server's list, which is no classifier: {listed}"
        return mode, (Notice("prompt_on_word_list", detail, {"words": list(found)}),)

    def inherited(self, mode: Safety) -> Safety:
        """The mode of what continues a generation of this mode."""
        return strictest(mode, self.default)

    def serving(self, mode: Safety) -> Safety:
        """The mode by which images are served: a default of `veto` holds for all."""
        return Safety.VETO if Safety.VETO in (mode, self.default) else mode

    def shown(self, event: Event, mode: Safety) -> Event:
        """An event of a generation of this mode, without an unclassified image."""
        if mode is Safety.VETO or self.serving(mode) is not Safety.VETO or event.data.get("image") is None:
            return event
        return replace(event, data={**event.data, "image": None})

    async def classify(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        """Verdicts of images (H, W, 3), in order. Raises SafetyUnavailable."""
        if not images:
            return []
        async with self._running:
            return await asyncio.to_thread(self._verdicts, images)

    async def remembered(self, key: tuple[str, int], image: Pixels) -> SafetyVerdict:
        """The verdict of the image of a generation's candidate, which is kept.

        Raises SafetyUnavailable.
        """
        if key not in self._known:
            self._known[key] = (await self.classify([image]))[0]
            if len(self._known) > KEPT_VERDICTS:
                self._known.popitem(last=False)
        return self._known[key]

    def recall(self, key: tuple[str, int]) -> SafetyVerdict | None:
        """The verdict that is kept, if any."""
        return self._known.get(key)

    def _verdicts(self, images: Sequence[Pixels]) -> list[SafetyVerdict]:
        self.preload()
        assert self._classifier is not None
        info = self._classifier.info
        try:
            with self._in_use:  # a cancelled call gives way to others while its thread goes on
                scored: Sequence[Mapping[str, float]] = self._classifier.classify(images)
            if len(scored) != len(images):
                raise ValueError(f"{len(scored)} answers to {len(images)} images")
        except Exception:  # of a library: the images count as flagged
            log.exception("the safety classifier failed")
            scored = [{}] * len(images)
        return [_verdict(scores, info) for scores in scored]

    def _load(self) -> SafetyClassifier:
        if self._settings.load is None:
            raise SafetyUnavailable("this server has no safety classifier: use a replica that has one")
        try:
            return self._settings.load()
        except ModelError as error:
            raise SafetyUnavailable(str(error)) from error
        except Exception as error:  # of a library
            log.exception("the safety classifier cannot be loaded")
            raise SafetyUnavailable(f"the safety classifier cannot be loaded ({type(error).__name__})") from error


def _verdict(scores: Mapping[str, float], info: SafetyInfo) -> SafetyVerdict:
    numbers = {name: float(value) if math.isfinite(value) else None for name, value in scores.items()}
    flagged = not numbers or any(value is None or value > info.threshold for value in numbers.values())
    return SafetyVerdict(flagged, numbers, info.id, info.revision)


NO_SAFETY = SafetySettings()
"""No classifier, and no default."""
