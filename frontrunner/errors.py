"""Errors of the client.

FrontrunnerError
    ConnectionFailed      no response: refused, cut or timed out
    GenerationFailed      a generation ended as failed or cancelled
    InvalidSignature      a webhook is not from the service
    ApiError              an error response (RFC 9457)
        InvalidRequest    400, 406, 409, 413, 415, 422
        Unauthorized      401
        PermissionDenied  403
        NotFound          404
        QuotaExceeded     429
        ServerError       5xx
            Unavailable   503, and 504 for an accepted generation
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from frontrunner.types import FieldError, GenerationResponse


class FrontrunnerError(Exception):
    """Base of all errors of the client."""


class ConnectionFailed(FrontrunnerError):
    """No response arrived; `unsent` means that the service did not get the request."""

    def __init__(self, message: str, *, unsent: bool) -> None:
        super().__init__(message)
        self.unsent = unsent


class GenerationFailed(FrontrunnerError):
    """A generation failed or was cancelled; `generation` is its last state."""

    def __init__(self, generation: GenerationResponse) -> None:
        error = generation["error"] or {"code": generation["status"], "message": "the generation was cancelled"}
        super().__init__(f"{generation['id']}: {error['message']}")
        self.generation = generation
        self.code = error["code"]


class InvalidSignature(FrontrunnerError):
    """A webhook's signature or time is wrong: answer 400 and ignore its body."""


class ApiError(FrontrunnerError):
    """An error response.

    `code` is a code of the API's documentation, `errors` lists the invalid fields. `generation_id` is set when a
    generation was accepted. `retry_after_s` and `should_retry` are None if the service gave no advice.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(detail)
        headers = headers or {}
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors or []
        self.request_id = headers.get("x-request-id")
        self.generation_id = generation_id(location or headers.get("location"))
        self.retry_after_s = _seconds(headers.get("retry-after"))
        self.should_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))


class InvalidRequest(ApiError):
    """The request is not valid, or the state of the generation does not allow it."""


class Unauthorized(ApiError):
    """The key is missing, unknown or revoked."""


class PermissionDenied(ApiError):
    """The key lacks the right for this request."""


class NotFound(ApiError):
    """Nothing has this id, or it belongs to another key."""


class QuotaExceeded(ApiError):
    """The key's quota is used up until `retry_after_s`."""


class ServerError(ApiError):
    """The service failed."""


class Unavailable(ServerError):
    """The service is loading, full or stopping."""


_KINDS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: PermissionDenied,
    404: NotFound,
    429: QuotaExceeded,
    503: Unavailable,
    504: Unavailable,
}


def from_response(response: httpx.Response) -> ApiError:
    """The error of a response that has been read.

    A page of a proxy has the code `http_error`.
    """
    code, detail, errors = "http_error", f"the service returned HTTP status {response.status_code}", None
    try:
        body: Any = response.json()
        code, detail, errors = body["error"]["code"], body["detail"], body.get("errors")
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    kind = _kind(response.status_code)
    return kind(response.status_code, code, detail, errors=errors, headers=response.headers)


def from_event(data: Mapping[str, Any]) -> ApiError:
    """The error of a stream's `error` event."""
    error: Mapping[str, Any] = data["error"]
    kind = {"overloaded_error": 503, "authentication_error": 401, "permission_error": 403}.get(error["type"], 500)
    return _kind(kind)(kind, error["code"], error["message"], location=data.get("location"))


def generation_id(location: str | None) -> str | None:
    """The id in the address of a generation, which may be absolute or below a prefix."""
    name = (location or "").partition("?")[0].rstrip("/").rpartition("/")[2]
    return name if name.startswith("gen_") else None


def _kind(status: int) -> type[ApiError]:
    return _KINDS.get(status, ServerError if status >= 500 else InvalidRequest)


def _seconds(value: str | None) -> float | None:
    """Seconds of a `Retry-After`.

    An HTTP date, which the service never sends, counts as no advice.
    """
    return float(value) if value is not None and value.isascii() and value.isdigit() else None
