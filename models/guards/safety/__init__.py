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

FAKE, OPEN_NSFW, CONCEPTS, SHIELD = "fake", "open-nsfw", "sd-checker:", "shieldgemma-2:"

NAMES = (OPEN_NSFW, f"{CONCEPTS}FOLDER", f"{SHIELD}FOLDER")
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
    kind, colon, place = name.partition(":")
    if kind + colon not in (CONCEPTS, SHIELD):
        raise ModelNotFound(f"the safety classifier {name!r} is unknown: use {', '.join(NAMES)}")
    if not (Path(place).is_dir() or _HUB_ID.fullmatch(place)):
        raise ModelNotFound(f"the safety classifier {kind} is not found: name a folder or a hub id OWNER/NAME")
    library = "diffusers" if kind + colon == CONCEPTS else "transformers"
    if find_spec(library) is None:
        raise ModelNotFound(f"the safety classifier {kind} needs {library}: run `pip install 'frontrunner[models]'`")


def load_classifier(name: str, threshold: float | None = None) -> SafetyClassifier:
    """Load a classifier; `threshold` replaces its own.

    Raises ModelNotFound and ModelUnsupported.
    """
    check_classifier(name)
    if name.startswith(SHIELD):
        from models.guards.safety.shield import load_shield

        return load_shield(name.removeprefix(SHIELD), threshold)
    if name.startswith(CONCEPTS):
        from models.guards.safety.concepts import load_concepts

        return load_concepts(name.removeprefix(CONCEPTS), threshold)
    return FakeClassifier(threshold) if name == FAKE else OpenNsfw(threshold)
