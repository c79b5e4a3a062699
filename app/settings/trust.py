"""Settings of safety, and of the origin that image files state."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from models.guards.safety.words import BUILT_IN, WordList, read_words

BUILT_IN_WORDS = "builtin"


class TrustSettings(BaseSettings):
    """See the module."""

    safety: Literal["off", "flag", "veto"] = Field("off", description="safety of requests that name none; veto: all")
    safety_classifier: str = Field(
        "open-nsfw",
        min_length=1,
        description="classifier of images: open-nsfw (extra safety), sd-checker:FOLDER, or shieldgemma-2:FOLDER",
    )
    safety_threshold: float | None = Field(
        None, ge=0, le=1, description="score above which an image is flagged; empty for the classifier's own"
    )
    safety_words: str = Field(
        BUILT_IN_WORDS, description="words that prompts should not have: builtin, or a text file; empty for none"
    )
    safety_optional: bool = Field(
        False, description="whether to start with safety off if the classifier cannot be loaded"
    )
    provenance: Literal["none", "metadata", "c2pa"] = Field("none", description="image files: none, metadata, c2pa")
    c2pa_certificate: Path | None = Field(None, description="PEM certificate chain that signs C2PA manifests")
    c2pa_key: Path | None = Field(None, description="PEM private key of the C2PA certificate, on every replica")
    c2pa_trust: Path | None = Field(None, description="PEM certificates of authorities that /v1/verify trusts")

    @field_validator("safety_threshold", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("safety_words")
    @classmethod
    def _check_words(cls, value: str) -> str:
        _words(value)
        return value

    @property
    def word_list(self) -> WordList:
        """The words that prompts should not have."""
        return _words(self.safety_words)


def _words(value: str) -> WordList:
    if not value:
        return WordList()
    return read_words(BUILT_IN if value == BUILT_IN_WORDS else Path(value))
