"""Settings of a remote generator: its key, its limits, its budget."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.imaging import GuardedDecoder
from models.load_options import RemoteLimits

KEY_VARIABLE = "FRONTRUNNER_REMOTE_API_KEY"
"""Environment variable with the key of a remote generator by default."""

_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
_KEY = re.compile(r"[!-~]*")
SIZE_MULTIPLE = 8


class RemoteSettings(BaseSettings):
    """The limits of a generator such as `openai:https://host/v1#model`.

    The key is read from the environment only.
    """

    model_config = SettingsConfigDict(frozen=True)

    remote_key_variable: str = Field(
        KEY_VARIABLE, pattern=r"^[A-Z_][A-Z0-9_]*$", description="environment variable with the remote generator's key"
    )
    remote_concurrency: int = Field(4, ge=1, le=256, description="maximum calls at once to the remote generator")
    remote_calls_per_minute: int = Field(0, ge=0, le=100_000, description="maximum calls in any minute; 0: unlimited")
    remote_images_per_call: int = Field(
        0, ge=0, le=64, description="images that one call asks for; 0: 1 for openai:, 4 for a1111:, 8 for frontrunner:"
    )
    remote_timeout_s: float = Field(120, gt=0, le=3600, description="maximum seconds of one call")
    remote_deadline_s: float = Field(
        300, gt=0, le=7200, description="maximum seconds for all images of a generation, with repeated calls"
    )
    remote_attempts: int = Field(3, ge=1, le=10, description="maximum attempts of a call that fails")
    remote_calls_per_day: int = Field(10_000, ge=0, description="maximum calls of a process in a day of UTC")
    remote_price: float = Field(0, ge=0, allow_inf_nan=False, description="price of one image, in any currency")
    remote_money_per_day: float = Field(
        0, ge=0, allow_inf_nan=False, description="maximum money of a process in a day of UTC; 0: unlimited"
    )
    remote_size: str = Field("", description="default size of the remote generator, WIDTHxHEIGHT; empty for its own")
    remote_parameters: str = Field(
        "", description='JSON object that is added to every request, such as {"quality": "low"}'
    )

    @model_validator(mode="after")
    def _check_remote(self) -> RemoteSettings:
        if self.remote_money_per_day and not self.remote_price:
            raise ValueError("REMOTE_MONEY_PER_DAY needs REMOTE_PRICE, the price of one image; set both")
        if not _KEY.fullmatch(self._remote_key):
            raise ValueError(f"{self.remote_key_variable} must be a key of visible ASCII characters")
        self.remote_limits  # noqa: B018
        return self

    @property
    def _remote_key(self) -> str:
        return os.environ.get(self.remote_key_variable, "").strip()

    @property
    def remote_limits(self) -> RemoteLimits:
        """The limits of a remote generator. Raises ValueError."""
        return RemoteLimits(
            api_key=self._remote_key,
            concurrency=self.remote_concurrency,
            per_minute=self.remote_calls_per_minute,
            images_per_call=self.remote_images_per_call,
            timeout_s=self.remote_timeout_s,
            deadline_s=self.remote_deadline_s,
            attempts=self.remote_attempts,
            calls_per_day=self.remote_calls_per_day,
            price=self.remote_price,
            money_per_day=self.remote_money_per_day,
            size=_size(self.remote_size),
            parameters=_parameters(self.remote_parameters),
            decoder=GuardedDecoder,
        )


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = _SIZE.fullmatch(text)
    if found is None or any(int(side) % SIZE_MULTIPLE for side in found.groups()):
        raise ValueError(f"REMOTE_SIZE must be WIDTHxHEIGHT in multiples of {SIZE_MULTIPLE}, such as 1024x1024")
    return int(found[1]), int(found[2])


def _parameters(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError('REMOTE_PARAMETERS must be a JSON object, such as {"quality": "low"}')
    return found
