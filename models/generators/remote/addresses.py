"""Names of remote generators, such as `openai:https://host/v1#model`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import httpx

from models.errors import ModelUnsupported

Api: TypeAlias = Literal["openai", "a1111", "frontrunner"]
"""The APIs of remote generators."""

_HOST = re.compile(r"[\w.:-]+")

NAMED = (
    "a remote generator is named openai:https://HOST/v1#MODEL, a1111:https://HOST[#MODEL] or "
    "frontrunner:https://HOST[#MODEL], without user, password and query; the key is FRONTRUNNER_REMOTE_API_KEY"
)


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """API, base URL without a slash at its end, and model.

    The model is empty for the remote's own choice.
    """

    api: Api
    base: httpx.URL
    model: str

    @property
    def id(self) -> str:
        """The generator's name in answers: without the address."""
        return f"{self.api}:{self.model}" if self.model else self.api

    def is_same_origin(self, url: httpx.URL) -> bool:
        """Whether a URL belongs to the server that the operator named."""
        return _origin(url) == _origin(self.base)


def parse_address(name: str) -> RemoteAddress:
    """Read the name of a remote generator.

    Raises ModelUnsupported for another form; it never repeats the name.
    """
    api, _, rest = name.partition(":")
    base, _, model = rest.partition("#")
    try:
        url = httpx.URL(base.strip().rstrip("/"))
        port = url.port
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise ModelUnsupported(NAMED) from None
    whole = _HOST.fullmatch(url.host) and (port is None or 0 < port < 2**16)
    given = api in get_args(Api) and url.scheme in ("http", "https") and whole
    if not given or url.userinfo or url.query or "?" in base or (api == "openai" and not model):
        raise ModelUnsupported(NAMED)
    return RemoteAddress(api, url, model)  # type: ignore[arg-type]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host.lower(), url.port or default
