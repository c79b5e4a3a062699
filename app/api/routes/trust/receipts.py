"""GET /v1/generations/{id}/receipt, and the key that receipts are signed with."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter

from app.api import openapi
from app.api.dependencies import GenerationId, ServicesDep
from app.api.schemas.base import ResponseModel

router = APIRouter(prefix="/v1", tags=["verify"])


class ReceiptResponse(ResponseModel):
    """What a ranking was made of, signed.

    `signature`, in base64, is of `claims` in canonical JSON (RFC 8785) by the first key of `certificate`.
    """

    object: Literal["receipt"]
    claims: dict[str, Any]
    algorithm: str
    certificate: str
    signature: str


class ReceiptKeyResponse(ResponseModel):
    """The key that receipts are signed with, and its certificate chain, in PEM."""

    object: Literal["receipt_key"] = "receipt_key"
    algorithm: str
    public_key: str
    certificate: str


@router.get(
    "/generations/{generation_id}/receipt",
    summary="Read the signed receipt of a generation",
    responses=openapi.error_responses(404, 409, 500, 503),
)
@router.head("/generations/{generation_id}/receipt", include_in_schema=False)
async def read_receipt(generation_id: GenerationId, services: ServicesDep) -> ReceiptResponse:
    """Seeds, scores, revisions, settings, and hashes of files and latents.

    Made on request. Texts are hashes. 404 where the service has no certificate, and for deleted generations.
    """
    return ReceiptResponse(**await services.receipts.receipt(generation_id))


@router.get("/receipts/key", summary="Read the public key of receipts", responses=openapi.error_responses(404, 500))
@router.head("/receipts/key", include_in_schema=False)
async def read_key(services: ServicesDep) -> ReceiptKeyResponse:
    """Needs no API key.

    Keep it: receipts stay verifiable after the certificate changed.
    """
    return ReceiptKeyResponse(**services.receipts.key())
