"""Static files of the studio: the page at `/`, its assets under `/studio/`.

All files are read once, at import; no other file is ever served.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.exceptions import HTTPException

import app.studio

router = APIRouter(include_in_schema=False)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""No inline scripts or styles, no other origins, no framing."""

HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_MEDIA_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
}


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    media_type: str
    etag: str


def _load_file(path: Path) -> _File:
    data = path.read_bytes()
    return _File(data, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')


_FILES = {path.name: _load_file(path) for path in sorted((Path(app.studio.__file__).parent / "dist").iterdir())}


@router.get("/")
@router.head("/")
async def read_page(if_none_match: Annotated[str, Header()] = "") -> Response:
    """The page of the studio."""
    return _file_response(_FILES["index.html"], if_none_match)


@router.get("/studio/{name}")
@router.head("/studio/{name}")
async def read_file(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
    """An asset of the page. Raises HTTPException 404."""
    if name not in _FILES:
        raise HTTPException(404)
    return _file_response(_FILES[name], if_none_match)


def _file_response(file: _File, if_none_match: str) -> Response:
    headers = {**HEADERS, "etag": file.etag}
    known_tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if file.etag in known_tags:
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)
