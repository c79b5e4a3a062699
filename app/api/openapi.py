"""The OpenAPI document beyond the types: recorded examples, errors, security."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.api import problems
from app.api.negotiation import EVENTS, IMAGES, JSON
from app.errors import FrontrunnerError

DESCRIPTION = """\
Generate many, keep the best. The service samples N candidate images for a prompt, scores each with CLIP, and returns
the best in order of `similarity - negative_weight * penalty + taste`. `POST /v1/generations` has four response forms:
plain JSON, `Prefer: respond-async`, `Accept: text/event-stream`, `Accept: image/png`.
"""

EXAMPLE_PROMPT = {"prompt": "a red apple on a white background"}
REQUESTS = {
    "smallest": {"summary": "Only a prompt", "value": EXAMPLE_PROMPT},
    "best three of sixteen": {
        "summary": "Sixteen candidates, three returned, with negatives",
        "value": {
            **EXAMPLE_PROMPT,
            "negative_prompt": "blurry, text, watermark",
            "n_candidates": 16,
            "n": 3,
            "size": "64x64",
            "steps": 16,
            "guidance_scale": 4.0,
            "sampler": "ddim",
            "seed": 7,
            "ranking": {"negative_weight": 0.5, "negatives": [{"text": "letters", "weight": 1.0}]},
        },
    },
    "fixed checkpoints": {
        "summary": "Sixteen candidates, eight after step 5, four after step 10",
        "value": {
            **EXAMPLE_PROMPT,
            "n_candidates": 16,
            "steps": 16,
            "pruning": [{"at": 5, "keep": 8}, {"at": 10, "keep": 4}],
        },
    },
}
OPENAI_REQUESTS = {
    "smallest": {"summary": "Only a prompt", "value": EXAMPLE_PROMPT},
    "extra fields": {
        "summary": "Request of the openai package with extra_body",
        "value": {
            **EXAMPLE_PROMPT,
            "n": 2,
            "size": "64x64",
            "response_format": "b64_json",
            "n_candidates": 8,
            "seed": 7,
        },
    },
}
WEB_UI_REQUESTS = {
    "best two of eight": {
        "summary": "Two images, the best of eight candidates",
        "value": {**EXAMPLE_PROMPT, "batch_size": 2, "sampler_name": "Euler a", "frontrunner_candidates": 8, "seed": 7},
    },
}
_RED = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAA"
    "BLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="
)
_GREEN = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAA"
    "BLbSncAAAAE0lEQVR42mNkaGDACpgYGIaSBABqCACQdB1jOgAAAABJRU5ErkJggg=="
)
VERIFY_REQUEST = {"image": _RED}
VERIFY_FORM = {"image": ["winner.png"]}
RANK_REQUEST = {**EXAMPLE_PROMPT, "ranking": {"negatives": [{"text": "blurry"}]}, "images": [_RED, _GREEN]}
RANK_FORM = {
    **EXAMPLE_PROMPT,
    "negative_prompt": "blurry",
    "ranking": {"diversity": 0.5},
    "images": ["one.png", "two.jpg"],
}
EMBEDDING_REQUESTS: dict[str, Any] = {
    "a text": {"summary": "One text", "value": {"input": "a red apple"}},
    "both": {"summary": "A text and an image", "value": {"input": ["a red apple", _RED], "encoding_format": "base64"}},
}
RERANK_REQUESTS: dict[str, Any] = {
    "images": {"summary": "Images by a text", "value": {"query": "a red apple", "documents": [_RED, _GREEN]}},
    "objects": {
        "summary": "The best text, repeated",
        "value": {
            "query": "a red apple",
            "documents": [{"text": "a green car"}, {"text": "an apple"}],
            "top_n": 1,
            "return_documents": True,
        },
    },
}
EXAMPLE_GENERATION_ID = "gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH"
"""Placeholder in examples for the id of your generation."""

_ERROR_EXAMPLES = {
    400: ("invalid_json", "The body is not JSON", "the body is not valid JSON: send one JSON document in UTF-8", None),
    401: ("unauthorized", "An API key is required", "the API key is unknown or revoked: send a valid key", None),
    403: (
        "forbidden",
        "The key lacks the permission",
        "this key lacks the permission 'generate': use a key that has it",
        None,
    ),
    404: ("not_found", "Not found", "there is no such generation, or it was deleted: check the id", None),
    406: (
        "not_acceptable",
        "Not Acceptable",
        f"no media type in `Accept` is available: allow one of {JSON}, {EVENTS}, {', '.join(IMAGES)}",
        None,
    ),
    408: ("request_timeout", "Request Timeout", "the body did not arrive within 60 s: send it again", None),
    409: ("not_ready", "Not ready", "the generation is running", None),
    413: (
        "too_large",
        HTTPStatus(413).phrase,
        "the body exceeds the limit of 33554432 bytes: send a smaller one",
        None,
    ),
    415: (
        "unsupported_media",
        "Unsupported media type",
        "the body must be JSON: send the header 'Content-Type: application/json'",
        None,
    ),
    422: ("invalid_request", "The request is not valid", "24 is out of range; send a value between 1 and 16", "#/n"),
    429: (
        "quota_exceeded",
        "The key's quota is used up",
        "this key allows 500 candidates in 3600 s and has 4 left: request fewer, or retry in 900 s",
        None,
    ),
    500: ("engine_failed", "The engine failed", "the device call failed (RuntimeError)", None),
    503: (
        "queue_full",
        "The queue is full",
        "server busy: 512 candidates are held, and 16 more exceed the limit of 512; "
        "retry after the interval in `Retry-After`",
        None,
    ),
    504: (
        "draining",
        "Shutting down",
        "this replica is shutting down: retry after the interval in `Retry-After`",
        None,
    ),
}
_DESCRIPTIONS = {
    400: "The body is not JSON, or an image cannot be read.",
    401: "The API key is missing or invalid. Only on servers that have keys.",
    403: "The key lacks the permission.",
    404: "The generation, candidate or model does not exist, or belongs to another key.",
    406: "No media type in `Accept` is available.",
    408: "The body did not arrive in time.",
    409: "The generation has no result yet, or ended without one.",
    413: "The body or an image exceeds the limit.",
    415: "The media type of the body or of an image is not supported.",
    422: "A field is unknown, out of range or contradicts another; `errors` points at it.",
    429: "The key's quota is used up; its next window begins after `Retry-After`.",
    500: "The engine failed; `x-should-retry: false`.",
    503: "Loading, queue full, draining, engine dead, or a store unavailable. Nothing was accepted: retry after "
    "`Retry-After`.",
    504: "Accepted, but this replica cannot wait for the result. Poll `Location` after `Retry-After`; "
    "`x-should-retry: false`.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can return these errors."""
    return {status: _error_response(status) for status in statuses}


def _error_response(status: int) -> dict[str, Any]:
    code, title, detail, pointer = _ERROR_EXAMPLES[status]
    fields = [problems.FieldError(detail=detail, pointer=pointer)] if pointer else []
    detail = problems.first_named(fields) or detail
    example = {
        "type": f"urn:frontrunner:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": "/v1/generations",
        "error": problems.error_member(status, code, detail, fields),
    }
    if fields:
        example["errors"] = [f.model_dump(exclude_none=True) for f in fields]
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    response: dict[str, Any] = {"description": _DESCRIPTIONS[status], "content": {problems.PROBLEM_MEDIA_TYPE: content}}
    if status in {503, 504}:
        retry_after = {"Retry-After": {"description": "Seconds, at most 120.", "schema": {"type": "integer"}}}
        location = (
            header_docs(Location="URL of the generation, which another replica continues.") if status == 504 else {}
        )
        response["headers"] = retry_after | location
    return response


def image_content() -> dict[str, Any]:
    """The `content` of an image response, in every format."""
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGES}


def event_stream_content(kinds: Sequence[str]) -> dict[str, Any]:
    """The `content` of an event stream; `data` is JSON on one line."""
    data = {"type": "string", "contentMediaType": "application/json"}
    event = {"type": "string", "enum": [*kinds, "error"]}
    event_id, retry = {"type": "string"}, {"type": "integer", "minimum": 0}
    properties = {"event": event, "data": data, "id": event_id, "retry": retry}
    return {EVENTS: {"itemSchema": {"type": "object", "properties": properties, "required": ["event", "data"]}}}


def header_docs(**described: str) -> dict[str, Any]:
    """Descriptions of response headers; underscores in names become hyphens."""
    return {k.replace("_", "-"): {"description": v, "schema": {"type": "string"}} for k, v in described.items()}


def install_openapi(app: FastAPI) -> None:
    """Install the OpenAPI document of `app`, built once, with the error schema."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            _drop_default_errors(document)
            _add_security(document)
            _use_web_ui_errors(document)
            _add_response_examples(document)
            document["components"]["schemas"] |= _schemas(problems.Problem) | _schemas(problems.WebUIError)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_default_errors(document: dict[str, Any]) -> None:
    """Drop the 422 that FastAPI adds to routes with parameters.

    `error_responses` documents the real ones.
    """
    for methods in document["paths"].values():
        for operation in methods.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _add_security(document: dict[str, Any]) -> None:
    """Document API keys and their errors on every route that takes them."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, on servers that have keys."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "basic": {"type": "http", "scheme": "basic", "description": "Any user; the password is an API key."},
    }
    for path, methods in document["paths"].items():
        web_ui = path.startswith(problems.WEB_UI_PREFIX)
        if path.startswith("/v1/") or web_ui:
            for method, operation in methods.items():
                statuses = (401, 403, 429) if method == "post" else (401, 403)
                operation["responses"] |= {str(k): v for k, v in error_responses(*statuses).items()}
                operation["security"] = [{"bearer": []}, {"header": []}, *([{"basic": []}] if web_ui else []), {}]


def _use_web_ui_errors(document: dict[str, Any]) -> None:
    """Document the errors of the web UI's routes in its format."""
    schema = {"$ref": "#/components/schemas/WebUIError"}
    for path, methods in document["paths"].items():
        if path.startswith(problems.WEB_UI_PREFIX):
            for operation in methods.values():
                for status, response in operation["responses"].items():
                    if status >= "400":
                        code, _, detail, _ = _ERROR_EXAMPLES[int(status)]
                        example = problems.web_ui_error(code, detail)
                        response["content"] = {JSON: {"schema": schema, "example": example}}


def _add_response_examples(document: dict[str, Any]) -> None:
    """Add recorded responses of the embedded model; long data is truncated."""
    recorded = json.loads(files("app.api").joinpath("examples.json").read_text())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, by_kind in recorded.get(f"{method.upper()} {path}", {}).items():
                content = operation["responses"][status].setdefault("content", {})
                for kind, example in by_kind.items():
                    content.setdefault(kind, {})["example"] = example


def request_body(*models: tuple[str, type[Any], Mapping[str, Any] | None]) -> dict[str, Any]:
    """The `openapi_extra` of a route that parses its body itself.

    Each item is media type, model and example.
    """
    content = {}
    for kind, model, example in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        content[kind] = {"schema": schema, **({"example": example} if example else {})}
    return {"requestBody": {"required": True, "content": content}}


def _schemas(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), model.__name__: schema}


def error_codes(root: type[FrontrunnerError] = FrontrunnerError) -> Sequence[str]:
    """Every error code, sorted: of the error classes and of HTTP errors."""
    found = {root.code, *problems.HTTP_CODES.values(), "invalid_json"}
    for kind in root.__subclasses__():
        found |= set(error_codes(kind))
    return sorted(found)
