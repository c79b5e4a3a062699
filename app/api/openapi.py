"""What the OpenAPI document says beyond the types: examples that were real, and every error of every route."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api import problems
from app.api.negotiation import EVENTS, IMAGES
from app.errors import FrontrunnerError

DESCRIPTION = """\
Generate many, keep the best: N candidate images are sampled for a prompt, compared with it by CLIP, and the best come
back in order of `similarity - negative_weight * penalty`. One address, four manners: plain JSON, `Prefer:
respond-async`, `Accept: text/event-stream`, `Accept: image/png`.
"""

EXAMPLE_PROMPT = {"prompt": "a red apple on a white background"}
REQUESTS = {
    "smallest": {"summary": "Only a prompt", "value": EXAMPLE_PROMPT},
    "best three of sixteen": {
        "summary": "Sixteen candidates, three returned, marked down for text",
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
    "with ours": {
        "summary": "What the openai package sends with extra_body",
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
_RED = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAA"
    "BLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="
)
_GREEN = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAA"
    "BLbSncAAAAE0lEQVR42mNkaGDACpgYGIaSBABqCACQdB1jOgAAAABJRU5ErkJggg=="
)
RANK_REQUEST = {**EXAMPLE_PROMPT, "ranking": {"negatives": [{"text": "blurry"}]}, "images": [_RED, _GREEN]}
RANK_FORM = {
    **EXAMPLE_PROMPT,
    "negative_prompt": "blurry",
    "ranking": {"diversity": 0.5},
    "images": ["one.png", "two.jpg"],
}
EXAMPLE_GENERATION_ID = "gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH"
"""Stands for the caller's own in examples."""

_ERROR_EXAMPLES = {
    400: ("invalid_json", "The body is not JSON", "the body cannot be read as JSON", None),
    401: ("unauthorized", "A key is needed", "there is no such key, or it was revoked", None),
    403: ("forbidden", "The key does not allow it", "this key has no right to generate", None),
    404: ("not_found", "Not found", "there is no such generation, or it was forgotten", None),
    406: ("not_acceptable", "Not Acceptable", "none of the media types in Accept can be made here", None),
    408: ("request_timeout", "Request Timeout", "the body took too long to arrive", None),
    409: ("not_ready", "Not ready", "the generation is running", None),
    413: ("too_large", "Content Too Large", "the body is larger than the limit of 33554432 bytes", None),
    415: ("unsupported_media", "Unsupported media type", "the body must be JSON", None),
    422: ("invalid_request", "The request is not valid", "24 is not between 1 and 16", "#/n"),
    429: (
        "quota_exceeded",
        "The key's quota is used up",
        "this key may ask for 500 candidates in 3600 s and has 4 left",
        None,
    ),
    500: ("engine_failed", "The engine failed", "the device call failed (RuntimeError)", None),
    503: ("queue_full", "The queue is full", "512 candidates are held and 16 more would pass the limit of 512", None),
    504: ("draining", "Shutting down", "this replica is shutting down", None),
}
_DESCRIPTIONS = {
    400: "The body is not JSON, or an image cannot be read.",
    401: "No API key, or one that is not good; only where there are keys.",
    403: "The key has no right to do this.",
    404: "No such generation, candidate or model, or another key's.",
    406: "No media type in `Accept` can be made here.",
    408: "The body took too long to arrive.",
    409: "The generation has no result yet, or ended without one.",
    413: "The body or an image is larger than the limit.",
    415: "The media type of the body or of an image is not one of those taken.",
    422: "A field is unknown, out of range or contradicts another; `errors` points at it.",
    429: "The key has used its quota; `Retry-After` says when its next window begins.",
    500: "The engine failed; `x-should-retry: false`.",
    503: "Loading, full, draining, dead, or a store is out of reach. Nothing was accepted; `Retry-After` says when to "
    "send the request again.",
    504: "Accepted, but this replica cannot wait for the result. Ask at `Location`, after `Retry-After`; "
    "`x-should-retry: false`.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these errors."""
    return {status: _error_response(status) for status in statuses}


def _error_response(status: int) -> dict[str, Any]:
    code, title, detail, pointer = _ERROR_EXAMPLES[status]
    fields = [problems.FieldError(detail=detail, pointer=pointer)] if pointer else []
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
    answer: dict[str, Any] = {"description": _DESCRIPTIONS[status], "content": {problems.PROBLEM_MEDIA_TYPE: content}}
    if status in {503, 504}:
        pause = {"Retry-After": {"description": "Seconds, at most 120.", "schema": {"type": "integer"}}}
        place = header_docs(Location="The generation, which another replica continues.") if status == 504 else {}
        answer["headers"] = pause | place
    return answer


def image_content() -> dict[str, Any]:
    """The `content` of an image, in each of the formats."""
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGES}


def event_stream_content(kinds: Sequence[str]) -> dict[str, Any]:
    """The `content` of an event stream: `data` is JSON, on one line."""
    data = {"type": "string", "contentMediaType": "application/json"}
    event = {"type": "string", "enum": [*kinds, "error"]}
    number, pause = {"type": "string"}, {"type": "integer", "minimum": 0}
    properties = {"event": event, "data": data, "id": number, "retry": pause}
    return {EVENTS: {"itemSchema": {"type": "object", "properties": properties, "required": ["event", "data"]}}}


def header_docs(**described: str) -> dict[str, Any]:
    """Documented answer headers; underscores stand for hyphens."""
    return {k.replace("_", "-"): {"description": v, "schema": {"type": "string"}} for k, v in described.items()}


def install_openapi(app: FastAPI) -> None:
    """Give `app` its OpenAPI document, made once, with the schema that all errors share."""

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
            _add_response_examples(document)
            document["components"]["schemas"] |= _schemas(problems.Problem)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_default_errors(document: dict[str, Any]) -> None:
    """Drop the 422 that FastAPI adds wherever a route has a parameter: the real ones are documented by hand."""
    for methods in document["paths"].values():
        for operation in methods.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _add_security(document: dict[str, Any]) -> None:
    """What the guard does to every route behind it."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where there are keys."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, methods in document["paths"].items():
        if path.startswith("/v1/"):
            for method, operation in methods.items():
                statuses = (401, 403, 429) if method == "post" else (401, 403)
                operation["responses"] |= {str(k): v for k, v in error_responses(*statuses).items()}
                operation["security"] = [{"bearer": []}, {"header": []}, {}]


def _add_response_examples(document: dict[str, Any]) -> None:
    """Real answers of the embedded model, kept as a server gave them, beside the schemas; long data is cut short."""
    kept = json.loads(files("app.api").joinpath("examples.json").read_text())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, by_kind in kept.get(f"{method.upper()} {path}", {}).items():
                content = operation["responses"][status].setdefault("content", {})
                for kind, example in by_kind.items():
                    content.setdefault(kind, {})["example"] = example


def request_body(*models: tuple[str, type[Any], Mapping[str, Any] | None]) -> dict[str, Any]:
    """An `openapi_extra` for a body that its route reads by hand: media type, model and example of each form."""
    content = {}
    for kind, model, example in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        content[kind] = {"schema": schema, **({"example": example} if example else {})}
    return {"requestBody": {"required": True, "content": content}}


def _schemas(model: type[problems.Problem]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), model.__name__: schema}


def error_codes(root: type[FrontrunnerError] = FrontrunnerError) -> Sequence[str]:
    """Every code that an error can have, from the tree and from HTTP."""
    found = {root.code, *problems.HTTP_CODES.values(), "invalid_json"}
    for kind in root.__subclasses__():
        found |= set(error_codes(kind))
    return sorted(found)
