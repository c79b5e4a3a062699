"""Who may come in: the key of each request to /v1 is looked at before its route is, and before its body is read.

Health, metrics, the documents and the page at / are for everybody. Which key may do what is `app.service.auth`'.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import from_error, instance
from app.errors import FrontrunnerError
from app.service import Caller, Keyring, Right, acting

GUARDED = "/v1/"
_RANKING = ("/v1/rank", "/v1/taste/")


class Guarded:
    """Lets a request pass with the right key, or without one as long as there are none (`app.state.keyring`)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        keyring: Keyring = scope["app"].state.keyring
        try:
            caller = await keyring.caller(_presented(Headers(scope=scope)), needed(scope["method"], scope["path"]))
        except FrontrunnerError as error:
            await from_error(error, instance(scope))(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if caller is not None and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_limits(caller))
            await send(message)

        with acting(caller):
            await self._app(scope, receive, told)


def needed(method: str, path: str) -> Right:
    """The right that a request takes: sampling is `GENERATE`, comparing and voting `RANK`, looking `READ`."""
    if method in {"GET", "HEAD", "OPTIONS"}:
        return Right.READ
    if path.startswith(_RANKING) or path.endswith("/rerank"):
        return Right.RANK
    return Right.GENERATE


def _presented(headers: Headers) -> str | None:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


def _limits(caller: Caller) -> dict[str, str]:
    """RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10), once something was charged."""
    if caller.standing is None:
        return {}
    left, pause = caller.standing
    policy = f'"candidates";q={caller.key.quota};qu="candidates";w={caller.key.window_s}'
    return {"ratelimit-policy": policy, "ratelimit": f'"candidates";r={left};t={pause}'}
