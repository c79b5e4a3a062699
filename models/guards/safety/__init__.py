"""Safety classifiers by name, and a word list for prompts.

Nothing is loaded or imported before `load_classifier`.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from models.errors import ModelNotFound
from models.guards.safety.open_nsfw import INSTALL, OpenNsfw, is_installed
from models.guards.safety.synthetic import FakeClassifier
from models.protocols.safety import SafetyClassifier

FAKE, OPEN_NSFW, CONCEPTS = "fake", "open-nsfw", "sd-checker:"

NAMES = (OPEN_NSFW, f"{CONCEPTS}FOLDER")
"""Names of classifiers. A hub id may stand for the folder."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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
    place = name.removeprefix(CONCEPTS)
    if place == name:
        raise ModelNotFound(f"the safety classifier {name!r} is unknown: use {', '.join(NAMES)}")
    if not (Path(place).is_dir() or _HUB_ID.fullmatch(place)):
        raise ModelNotFound("the safety checker is not found: name a folder or a hub id OWNER/NAME")
    if find_spec("diffusers") is None:
        raise ModelNotFound("the safety checker needs diffusers: run `pip install 'frontrunner[models]'`")


def load_classifier(name: str, threshold: float | None = None) -> SafetyClassifier:
    """Load a classifier; `threshold` replaces its own. Raises ModelNotFound."""
    check_classifier(name)
    if name.startswith(CONCEPTS):
        from models.guards.safety.concepts import load_concepts

        return load_concepts(name.removeprefix(CONCEPTS), threshold)
    return FakeClassifier(threshold) if name == FAKE else OpenNsfw(threshold)
