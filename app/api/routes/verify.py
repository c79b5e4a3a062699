"""POST /v1/verify: what an image file says about its origin, and if that holds."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from app import imaging
from app.api import json_body, openapi
from app.api.dependencies import ServicesDep, media_type
from app.api.forms import FORM_MEDIA_TYPE, checked, form
from app.api.schemas.base import RequestModel, ResponseModel
from app.errors import NotFound, UnsupportedMedia
from app.imaging.provenance import CertificateError, Report, State, read

router = APIRouter(prefix="/v1", tags=["verify"])


class VerifyForm(RequestModel):
    """An image file to verify."""

    image: list[str] = Field(
        min_length=1,
        max_length=1,
        description="PNG, JPEG or WebP file.",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )


class VerifyRequest(RequestModel):
    """An image to verify, as a data URI or bare base64."""

    image: str = Field(min_length=1, description="PNG, JPEG or WebP, as a data: URI or bare base64.")


class VerifyResponse(ResponseModel):
    """What the file's C2PA manifest says.

    `none`: the file has no manifest. `invalid`: it was changed, or the manifest is broken. `valid`: whole, by a
    signer that is not known here. `trusted`: whole, by this service or a signer that its operator trusts.
    """

    object: Literal["verification"] = "verification"
    state: State = Field(description="none, invalid, valid or trusted, see above.")
    signer: str | None = Field(None, description="Organisation of the signing certificate.")
    generator: str | None = Field(None, description="Software that wrote the manifest.")
    title: str | None = None
    generated: bool = Field(False, description="Whether the manifest says that a model made the image.")
    actions: list[str] = Field([], description="C2PA's names of what was done, in order.")
    parameters: dict[str, Any] | None = Field(None, description="What this software wrote: seed, model, score, hashes.")
    ingredients: list[str] = Field([], description="Titles of the files that it was made from.")
    problems: list[str] = Field([], description="C2PA's codes of failed checks.")

    @classmethod
    def from_report(cls, report: Report) -> VerifyResponse:
        """Convert a report."""
        return cls(
            state=report.state,
            signer=report.signer,
            generator=report.generator,
            title=report.title,
            generated=report.generated,
            actions=list(report.actions),
            parameters=None if report.parameters is None else dict(report.parameters),
            ingredients=list(report.ingredients),
            problems=list(report.problems),
        )


@router.post(
    "/verify",
    summary="Verify the origin of an image file",
    openapi_extra=openapi.request_body(
        ("application/json", VerifyRequest, openapi.VERIFY_REQUEST), (FORM_MEDIA_TYPE, VerifyForm, openapi.VERIFY_FORM)
    ),
    responses=openapi.error_responses(400, 404, 408, 413, 415, 422),
)
async def verify_image(request: Request, services: ServicesDep) -> VerifyResponse:
    """Reads the C2PA manifest of a file.

    Nothing is fetched, and a missing manifest proves nothing.
    """
    data = await _image(request)
    try:
        return VerifyResponse.from_report(await asyncio.to_thread(read, data, services.trust))
    except CertificateError as error:
        raise NotFound(f"this service cannot verify images: {error}") from None


async def _image(request: Request) -> bytes:
    kind = media_type(request)
    if kind == FORM_MEDIA_TYPE:
        async with form(request, ["image"], 1) as sent:
            checked(VerifyForm, sent.fields())
            data = (await sent.uploads("image"))[0].data
            assert isinstance(data, bytes)
            return data
    if kind == "application/json" or kind.endswith("+json"):
        body = checked(VerifyRequest, json_body.parse(await json_body.read(request)))
        return await asyncio.to_thread(imaging.parse_image_text, body.image)
    raise UnsupportedMedia(
        "set `Content-Type` to multipart/form-data with a file, or to application/json with a data URI"
    )
