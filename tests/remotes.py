"""A remote generator for tests: a real HTTP server whose answers a test writes, and orders to it."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import FrontrunnerError
from app.imaging import decode_upload
from models.generators.remote.addresses import parse_address
from models.generators.remote.generator import RemoteGenerator
from models.load_options import RemoteLimits
from models.protocols.narrow import Delivery, ImageOrder, LostImage, ReceivedImage
from tests.servers import PATIENCE_S

KEY = "sk-very-secret-key"


def file_of(colour: Any = "red", size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def base64_of(colour: Any = "red", size: tuple[int, int] = (64, 64)) -> str:
    return base64.b64encode(file_of(colour, size)).decode()


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Reply:
    """An answer; `cut` sends only so many bytes of it, then the connection ends; `stall` waits before the body."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: threading.Event | None = None

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Answer = Callable[[Asked, int], Any]


class Remote:
    """The server at `url`; `open` and `most` count calls at once."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked = list[Asked]()
        self.open = self.most = self.ended = 0
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Remote:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def made(self) -> list[Asked]:
        """The requests for images."""
        return [asked for asked in self.asked if asked.method == "POST"]

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length") or 0)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers, handler.rfile.read(length))
        with self._lock:
            self.asked.append(asked)
            number = len(self.asked)
            self.open += 1
            self.most = max(self.most, self.open)
        try:
            self._send(handler, self.answer(asked, number))
        except OSError:
            pass
        finally:
            with self._lock:
                self.open -= 1

    def _send(self, handler: BaseHTTPRequestHandler, answer: Any) -> None:
        reply = answer if isinstance(answer, Reply) else Reply(body=answer)
        data = reply.data
        handler.send_response(reply.status)
        for name, value in {"content-length": str(len(data)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if reply.stall is not None:
            handler.wfile.flush()
            reply.stall.wait(PATIENCE_S)
        handler.wfile.write(data if reply.cut is None else data[: reply.cut])
        handler.wfile.flush()
        handler.close_connection = True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        remote = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                remote.handle(self)

            def do_GET(self) -> None:
                remote.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class PlainDecoder:
    """Decodes in place."""

    async def decode(self, data: bytes) -> NDArray[np.uint8]:
        try:
            return decode_upload(data, 2**22)
        except FrontrunnerError as error:
            raise ValueError(error.detail) from error

    async def close(self) -> None:
        pass


@contextmanager
def generator(name: str, **limits: Any) -> Iterator[RemoteGenerator]:
    usual: dict[str, Any] = {
        "api_key": KEY, "decoder": PlainDecoder, "backoff_s": 0.01, "timeout_s": PATIENCE_S, "deadline_s": PATIENCE_S,
        "size": (64, 64),
    }  # fmt: skip
    extra = {name: limits.pop(name) for name in ("resolver", "clock") if name in limits}
    made = RemoteGenerator(parse_address(name), RemoteLimits(**{**usual, **limits}), **extra)
    try:
        yield made
    finally:
        made.close()


def order(count: int = 4, **changes: Any) -> ImageOrder:
    usual: dict[str, Any] = {
        "prompts": ("a red apple",) * count, "seeds": tuple(range(7, 7 + count)), "negative_prompt": "", "width": 64,
        "height": 64, "steps": 4, "guidance_scale": 2.0, "sampler": "remote",
    }  # fmt: skip
    return ImageOrder(**{**usual, **changes})


class Delivered:
    """What comes of an order."""

    def __init__(self, made: RemoteGenerator, asked: ImageOrder) -> None:
        self.all = list[Delivery]()
        self._count = len(asked.seeds)
        self._whole = threading.Event()
        self.cancel = made.generate(asked, self._take)

    def _take(self, delivery: Delivery) -> None:
        self.all.append(delivery)
        if len(self.all) == self._count:
            self._whole.set()

    def wait(self) -> Delivered:
        assert self._whole.wait(PATIENCE_S), "an image was neither delivered nor lost"
        assert sorted(each.place for each in self.all) == list(range(self._count))
        return self

    @property
    def pictures(self) -> dict[int, ReceivedImage]:
        return {each.place: each for each in self.all if isinstance(each, ReceivedImage)}

    @property
    def losses(self) -> dict[int, LostImage]:
        return {each.place: each for each in self.all if isinstance(each, LostImage)}

    @property
    def reasons(self) -> list[str]:
        return [self.losses[place].reason for place in sorted(self.losses)]


def made(remote: RemoteGenerator, asked: ImageOrder | None = None) -> Delivered:
    return Delivered(remote, asked or order()).wait()
