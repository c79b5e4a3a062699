"""What is fuzzed: each target takes any bytes and raises AssertionError where the service does what it never may.

The seeds of a target are the files in `seeds/` under its name. Whatever was found once stays there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

from app.api.negotiation import EVENTS, IMAGES, JSON, has_preference, negotiate
from app.errors import BadImage, InvalidRequest, TooComplex, TooLarge, UnsupportedMedia
from app.imaging import DecoderPool, Upload, parse_image_text
from tests.api.kit import House, running

SEEDS = Path(__file__).parent / "seeds"
BOUNDARY = "frontier"
LIMIT = 1_000_000
PATIENCE_S, MEMORY_MIB = 20.0, 256
OFFERS = (JSON, EVENTS, *IMAGES)
REFUSALS = (BadImage, InvalidRequest, TooComplex, TooLarge, UnsupportedMedia)

Target = Callable[[bytes], None]


@contextmanager
def targets(folder: Path) -> Iterator[dict[str, Target]]:
    """Every target by name, with a service on the fakes that keeps its data in `folder`."""
    pool = DecoderPool(1, PATIENCE_S, MEMORY_MIB)
    with asyncio.Runner() as runner, running(folder) as house:
        image = house.made(n_candidates=1, steps=1)["data"][0]["url"]
        yield {
            "upload": lambda data: runner.run(_upload(pool, data)),
            "data_uri": _data_uri,
            "accept": _accept,
            "prefer": _prefer,
            "range": lambda data: _range(house, image, data),
            "multipart": lambda data: _multipart(house, data),
        }
        runner.run(pool.close())


def seeds(name: str) -> list[bytes]:
    """The seeds of a target."""
    return [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]


async def _upload(pool: DecoderPool, data: bytes) -> None:
    refusal = None
    try:
        pixels = await pool.decode(Upload(data), LIMIT)
        assert pixels.shape[2] == 3
        assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMIT
    except REFUSALS as error:
        refusal = error.detail
    # By the clock, for memory or by a crash means that no limit of structure has caught it.
    assert refusal is None or not re.search("limit of|system|decoder", refusal), refusal


def _data_uri(data: bytes) -> None:
    with suppress(*REFUSALS):
        assert isinstance(parse_image_text(data.decode("utf-8", "surrogateescape")), bytes)


def _accept(data: bytes) -> None:
    assert negotiate(data.decode("latin-1"), OFFERS) in {*OFFERS, None}


def _prefer(data: bytes) -> None:
    assert has_preference(data.decode("latin-1"), "respond-async") in {True, False}


def _range(house: House, path: str, data: bytes) -> None:
    value = bytes(byte for byte in data if byte >= 32 and byte != 127)
    assert _status(house, "GET", path, {"range": value}) in {200, 206, 400, 416, 431}  # 431: longer than headers may be


def _multipart(house: House, data: bytes) -> None:
    body = data.replace(b"\n", b"\r\n")
    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
    assert _status(house, "POST", "/v1/rank", {"content-type": kind}, body) < 500


def _status(house: House, method: str, path: str, headers: dict[str, bytes], body: bytes | None = None) -> int:
    with closing(HTTPConnection(*house.address, timeout=60)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
