"""Multipart forms: files by field, and text fields as values of a request model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from app.api import json_body
from app.api.problems import InvalidJson
from app.errors import InvalidRequest, TooLarge
from app.imaging import Upload

Model = TypeVar("Model", bound=BaseModel)

FORM_MEDIA_TYPE = "multipart/form-data"
MAX_TEXT_FIELDS = 64
MAX_TEXT_FIELD_BYTES = 1024 * 1024
"""Maximum number of text fields in a form, and maximum bytes of each."""


class Form:
    """The text fields of a form and its files by field.

    `name[]` is the same as `name`.
    """

    def __init__(self, texts: Mapping[str, str], files: Mapping[str, list[UploadFile]]) -> None:
        self.texts = texts
        self.files = files

    def fields(self, *, objects: Collection[str] = (), scalars: Collection[str] = ()) -> dict[str, Any]:
        """Values by field; files are represented by their names.

        `objects` are parsed as JSON, `scalars` only if they are valid JSON.
        Raises InvalidRequest for an invalid object.
        """
        names = {name: [file.filename or "" for file in files] for name, files in self.files.items() if files}
        return {**{name: _value(name, text, objects, scalars) for name, text in self.texts.items()}, **names}

    async def uploads(self, name: str) -> list[Upload]:
        """The files of a field, in order."""
        return [Upload(await file.read(), file.content_type) for file in self.files[name]]


@asynccontextmanager
async def form(request: Request, files: Collection[str], limit: int) -> AsyncIterator[Form]:
    """The form of a request, with at most `limit` files in the fields `files`.

    Raises InvalidRequest for a repeated text field and for a file in another field; also TooLarge.
    """
    first = next(iter(files))
    with _limits_named(first, limit):
        async with request.form(
            max_files=limit + 1, max_fields=MAX_TEXT_FIELDS, max_part_size=MAX_TEXT_FIELD_BYTES
        ) as parsed:
            texts: dict[str, str] = {}
            found: dict[str, list[UploadFile]] = {name: [] for name in files}
            for name, value in parsed.multi_items():
                bare = name.removesuffix("[]")
                if isinstance(value, UploadFile) and bare in found:
                    found[bare].append(value)
                elif isinstance(value, UploadFile):
                    raise InvalidRequest("the field must be text: send it without a file name", pointer=f"#/{name}")
                elif name in texts:
                    raise InvalidRequest("the field is repeated: send it once", pointer=f"#/{name}")
                else:
                    texts[name] = value
            yield Form(texts, found)


def checked(model: type[Model], fields: Any) -> Model:
    """The fields as a model.

    Raises RequestValidationError with locations in the body.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        found = [{**e, "loc": ("body", *e["loc"])} for e in error.errors(include_input=False, include_url=False)]
        raise RequestValidationError(found, body=fields) from None


@contextmanager
def _limits_named(field: str, limit: int) -> Iterator[None]:
    try:
        yield
    except HTTPException as error:  # Starlette distinguishes its limits only by message
        if "Too many files" in error.detail:
            raise InvalidRequest(
                f"`{field}` has more files than the limit of {limit}: send fewer", pointer=f"#/{field}"
            ) from error
        if "Too many fields" in error.detail:
            raise InvalidRequest(
                f"the form has more than {MAX_TEXT_FIELDS} text fields: send fewer", pointer="#"
            ) from error
        if "exceeded maximum size" in error.detail:
            raise TooLarge(
                f"a text field exceeds the limit of {MAX_TEXT_FIELD_BYTES} bytes: send a shorter one"
            ) from error
        raise


def _value(name: str, text: str, objects: Collection[str], scalars: Collection[str]) -> Any:
    if name not in objects and name not in scalars:
        return text
    try:
        return json_body.parse(text.encode())
    except (InvalidJson, UnicodeError):
        if name in scalars:
            return text
        raise InvalidRequest("the field must be valid JSON without repeated members", pointer=f"#/{name}") from None
