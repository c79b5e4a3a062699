"""Error responses: RFC 9457 problem details, readable by OpenAI clients.

Owns the formats, the JSON Pointers and the exception handlers. Routes of the web UI's API have its own format,
`WebUIError`. `app.errors` defines the errors of the service. Errors of
HTTP alone (405, 406, 408, invalid JSON) have their codes here. Of the request, responses repeat only field names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from app.api.schemas.messages import accepted_kind, message
from app.errors import FrontrunnerError, InvalidEntries, QuotaExceeded, Unauthorized, Unavailable
from app.service import generation_path

PROBLEM_MEDIA_TYPE = "application/problem+json"

WEB_UI_PREFIX = "/sdapi/"
"""Begins the routes whose errors have the format of AUTOMATIC1111's web UI."""

HTTP_CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    413: "too_large",
    414: "uri_too_long",
    415: "unsupported_media",
    422: "invalid_request",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}
"""Codes of errors outside `app.errors`, by HTTP status."""

_OPENAI_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "overloaded_error",
}
"""OpenAI's error types by HTTP status."""


class ClientDisconnected(Exception):
    """The client disconnected before the response was ready.

    The status 499 appears only in the log.
    """


class InvalidJson(HTTPException):
    """The body, or a field of it, is not an accepted JSON document."""

    def __init__(self, detail: str) -> None:
        super().__init__(400, detail)


class ErrorMember(BaseModel):
    """The error in the format of OpenAI clients."""

    message: str
    type: str
    param: str | None
    code: str


REQUEST_ID_KEY = "frontrunner.request_id"
"""Key of the request id in the ASGI scope."""

CORS_KEY = "frontrunner.cors"
"""Key of the response headers for a named origin in the ASGI scope."""

MAX_ERRORS = 50
"""Maximum errors in one response."""


class FieldError(BaseModel):
    """An invalid field: a JSON Pointer into the body, or the name of a parameter."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None

    @property
    def name(self) -> str:
        """The field with dots, as in `ranking.negatives.0.text`; empty for the whole body."""
        return self.parameter or (self.pointer or "").removeprefix("#").removeprefix("/").replace("/", ".")

    @property
    def named(self) -> str:
        """The detail, after the field."""
        return f"{self.name or 'body'}: {self.detail}"


class Problem(BaseModel):
    """RFC 9457 problem details.

    `error` repeats the error for OpenAI clients; `errors` lists the invalid fields.
    """

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: ErrorMember
    errors: list[FieldError] | None = None


class WebUIError(BaseModel):
    """An error of the web UI's API; `error` is the code, `errors` names the members."""

    error: str
    detail: str
    body: str
    errors: str


def problem_response(
    status: int,
    code: str,
    title: str,
    detail: str,
    instance: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response for an error.

    409, 500 and 504 carry `x-should-retry: false`: a retry would fail, or sample twice.
    """
    extra = {"x-should-retry": "false"} if status in {409, 500, 504} else {}
    headers = {"cache-control": "no-store", **extra, **(headers or {})}
    if _is_web_ui(instance):
        return Response(json.dumps(web_ui_error(code, detail, errors)), status, headers, "application/json")
    body: dict[str, Any] = {
        "type": f"urn:frontrunner:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": instance,
        "error": error_member(status, code, detail, errors),
    }
    if errors:
        body["errors"] = [e.model_dump(exclude_none=True) for e in errors]
    # ASCII only: a field name may contain lone surrogates, which UTF-8 cannot encode.
    return Response(json.dumps(body), status, headers, PROBLEM_MEDIA_TYPE)


def web_ui_error(code: str, detail: str, errors: Sequence[FieldError] = ()) -> dict[str, str]:
    """An error in the format of the web UI.

    `detail` names the members, since clients show only that.
    """
    fields = "; ".join(e.named for e in errors)
    return {"error": code, "detail": fields or detail, "body": "", "errors": fields}


def _is_web_ui(instance: str) -> bool:
    """Whether a path, with any prefix, is a route of the web UI's API."""
    return WEB_UI_PREFIX in instance and not instance.startswith("/v1/")


def error_member(status: int, code: str, detail: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    """The `error` member, also used in event streams."""
    error_type = _OPENAI_ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = errors[0].name if errors else None
    return {"message": detail, "type": error_type, "param": param or None, "code": code}


def from_error(error: FrontrunnerError, instance: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error of the service."""
    headers = dict(headers or {})
    if isinstance(error, Unavailable | QuotaExceeded):
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    if error.generation_id is not None:
        headers["location"] = generation_path(error.generation_id)
    if isinstance(error, Unauthorized):
        scheme = "Basic" if _is_web_ui(instance) else "Bearer"
        headers["www-authenticate"] = f'{scheme} realm="frontrunner"'
    errors, detail = field_errors(error), named_detail(error)
    return problem_response(status_of(error), error.code, error.title, detail, instance, errors=errors, headers=headers)


def status_of(error: FrontrunnerError) -> int:
    """The HTTP status: 504 instead of 503 once a generation was accepted.

    Proxies may retry a request after 503, but not after 504.
    """
    return 504 if isinstance(error, Unavailable) and error.generation_id is not None else error.status


def field_errors(error: FrontrunnerError) -> list[FieldError]:
    """The fields that an error points at, at most `MAX_ERRORS`."""
    if isinstance(error, InvalidEntries):
        return [FieldError(detail=detail, pointer=pointer) for detail, pointer in error.fields[:MAX_ERRORS]]
    return [FieldError(detail=error.detail, pointer=error.pointer)] if error.pointer else []


def named_detail(error: FrontrunnerError) -> str:
    """The message of an error, with the fields that it points at."""
    fields = first_named(field_errors(error))
    if not fields:
        return error.detail
    return f"{error.detail}; {fields}" if isinstance(error, InvalidEntries) else fields


def first_named(errors: Sequence[FieldError]) -> str:
    """The first three errors with their fields, as one message."""
    return "; ".join(error.named for error in errors[:3])


def from_http(status: int, detail: str, instance: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error outside `app.errors`."""
    code = HTTP_CODES.get(status, "http_error")
    return problem_response(status, code, HTTPStatus(status).phrase, detail, instance, headers=headers)


def from_validation(error: RequestValidationError, instance: str) -> Response:
    """The response for a request that does not match its schema."""
    problems = error.errors()
    errors = _select_errors(problems, error.body)
    title, detail = "The request is not valid", first_named(errors)
    return problem_response(422, "invalid_request", title, detail, instance, errors=errors)


def _not_json(instance: str, detail: str = "the body is not valid JSON: send one JSON document in UTF-8") -> Response:
    return problem_response(400, "invalid_json", "The body is not JSON", detail, instance)


def fields_of(problems: Sequence[Mapping[str, Any]], body: Any) -> list[FieldError]:
    """The fields at fault in a value that does not match its schema."""
    return _select_errors([{**found, "loc": ("body", *found["loc"])} for found in problems], body)


def _select_errors(problems: Sequence[Mapping[str, Any]], body: Any) -> list[FieldError]:
    """One error per field, at most `MAX_ERRORS`.

    Every member of a union reports an error; that of the member with the matching type is kept. If none matches, the
    error says what all of them accept.
    """
    fields: dict[tuple[str | None, str | None], FieldError] = {}
    holders, mismatched = set[str](), set[tuple[str | None, str | None]]()
    for found in sorted(problems, key=_is_mismatch):
        field = _field_error(found, body)
        if _is_mismatch(found) and field.pointer in holders:
            continue
        place = (field.pointer, field.parameter)
        kind = accepted_kind(found)
        if place in mismatched and kind and kind not in fields[place].detail:
            fields[place] = fields[place].model_copy(update={"detail": f"{fields[place].detail} or {kind}"})
        mismatched.update({place} if _is_mismatch(found) and place not in fields else ())
        fields.setdefault(place, field)
        holders.update(_ancestors(field.pointer or ""))
        if len(fields) == MAX_ERRORS:
            break
    return list(fields.values())


def _ancestors(pointer: str) -> Iterator[str]:
    """Pointers of all containers of the field."""
    while (end := pointer.rfind("/")) > 0:
        pointer = pointer[:end]
        yield pointer


def _is_mismatch(found: Mapping[str, Any]) -> bool:
    return found["type"] == "literal_error" or str(found["type"]).endswith("_type")


def _field_error(found: Mapping[str, Any], body: Any) -> FieldError:
    where, *path = found["loc"]
    detail = message(found)
    if where != "body":
        return FieldError(detail=detail, parameter=".".join(str(p) for p in path))
    return FieldError(detail=detail, pointer=_pointer(path, body, missing=found["type"] == "missing"))


def _pointer(path: Sequence[str | int], body: Any, *, missing: bool) -> str:
    """A JSON Pointer as a URI fragment, without pydantic's parts for union members."""
    parts = []
    for place, part in enumerate(path):
        if (isinstance(body, dict) and part in body) or (isinstance(body, list) and isinstance(part, int)):
            body = body[part]  # type: ignore[index]
            parts.append(part)
        elif missing and place == len(path) - 1:
            parts.append(part)
    return "#" + "".join("/" + _escaped(str(p)) for p in parts)


def _escaped(part: str) -> str:
    return quote(part.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@", errors="replace")


def install_error_handlers(app: FastAPI) -> None:
    """Render every error of `app`, expected or not, as a problem."""

    async def on_error(request: Request, error: FrontrunnerError) -> Response:
        return from_error(error, instance(request.scope))

    async def on_validation(request: Request, error: RequestValidationError) -> Response:
        missing = any(e["loc"] == ("body",) and e["type"] == "missing" for e in error.errors())
        if missing and not await request.body():
            return _not_json(instance(request.scope))
        return from_validation(error, instance(request.scope))

    async def on_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error, InvalidJson):
            return _not_json(instance(request.scope), error.detail)
        headers, detail = error.headers, str(error.detail)
        if error.status_code == 404:
            detail = "no route has this path: see /docs for all routes"
        if error.status_code == 405:
            headers = {"allow": _allowed(request)}
            detail = f"the method is not allowed here: use {headers['allow']}"
        return from_http(error.status_code, detail, instance(request.scope), headers)

    async def on_disconnect(*_: object) -> Response:
        return Response(status_code=499)

    async def on_bug(request: Request, _: Exception) -> Response:
        """Set some headers here: this runs outside the middleware that sets them."""
        headers = {"x-request-id": str(request.scope.get(REQUEST_ID_KEY, "")), **request.scope.get(CORS_KEY, {})}
        return from_http(
            500, "an unexpected error: report `X-Request-Id` to the operator", instance(request.scope), headers
        )

    app.add_exception_handler(FrontrunnerError, on_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, on_validation)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, on_http)  # type: ignore[arg-type]
    app.add_exception_handler(ClientDisconnected, on_disconnect)
    app.add_exception_handler(Exception, on_bug)


def instance(scope: Scope) -> str:
    """The path of the request as a URI reference."""
    return quote(scope["path"], errors="replace")


def _allowed(request: Request) -> str:
    """Every method that the path allows, over all routes that match it."""
    routes = request.app.router.routes
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    allowed = [m for m in methods if any(r.matches({**request.scope, "method": m})[0] is Match.FULL for r in routes)]
    return ", ".join(allowed)
