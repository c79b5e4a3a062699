"""Texts and images of embedding and re-ranking requests, and their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from fastapi import Request
from pydantic import Field, model_validator

from app.api.dependencies import Services, loaded_models, unless_gone
from app.api.schemas.base import RequestModel, Text
from app.api.upload_limits import Sent
from app.domain import Notice
from app.errors import NotFound
from app.imaging import Upload
from app.service import Embedded, LoadedModels
from app.service.aliases import LOADED
from models.protocols import ScorerInfo


class InputObject(RequestModel):
    """A text or an image."""

    text: Text | None = None
    image: str | None = Field(None, description="An image, as a data: URI or bare base64.")

    @model_validator(mode="after")
    def _one(self) -> InputObject:
        if (self.text is None) == (self.image is None):
            raise ValueError("send either text or image")
        return self


Input: TypeAlias = Text | InputObject


def text_of(one: Input) -> str | None:
    """The text of an input, or None for an image.

    A string that is a data URI of an image counts as an image.
    """
    if isinstance(one, str):
        return None if _is_image(one) else one
    return one.text


async def embedded(
    request: Request, services: Services, scorer: ScorerInfo, inputs: Sequence[Input], pointers: Sequence[str]
) -> Embedded:
    """Vectors of the inputs by a scorer.

    `pointers` are the JSON pointers of the inputs in the body. Raises the error of an invalid input with its pointer,
    and ClientDisconnected if the client disconnects.
    """
    places = zip(inputs, pointers, strict=True)
    sent = [Sent(Upload(image), pointer) for one, pointer in places if (image := _image_of(one)) is not None]
    texts = [text_of(one) for one in inputs]

    async def read() -> Embedded:
        async with services.uploads.reader(sent) as batches:
            return await services.embedder.embed(texts, pointers, batches, scorer)

    return await unless_gone(request, read())


async def scorer_named(services: Services, model: str | None) -> tuple[Services, ScorerInfo, tuple[Notice, ...]]:
    """The services of a scorer and its facts, with a notice if `model` is an alias.

    A main scorer or a member with embeddings, which may load at its first use. Waits for the default model if its
    scorer is meant. Raises NotFound, WrongModelKind, Loading and the errors of
    `Services.of_model`.
    """
    if model is None or services.aliases.loaded(model, LoadedModels(LOADED, LOADED)) == LOADED:
        services = await services.of_model(None)
    loaded = loaded_models(services)
    found, notices = services.aliases.scorer(model, loaded)
    found = loaded.scorer if found is None else found
    for name, scorer in services.models.embedders():
        if scorer.id == found:
            return await services.of_model(name), scorer, notices
    names = " or ".join(map(repr, dict.fromkeys((loaded.scorer, *loaded.scorers))))
    raise NotFound(f"no scorer with embeddings is named {found!r}: use {names}", pointer="#/model")


def _image_of(one: Input) -> str | None:
    if isinstance(one, str):
        return one if _is_image(one) else None
    return one.image


def _is_image(text: str) -> bool:
    return text[:11].lower() == "data:image/"
