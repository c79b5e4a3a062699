"""A remote generator: takes orders, calls in parallel, delivers pictures.

One daemon thread with an event loop serves all orders, so its limits hold for the generator, and a stall costs no
thread that the device needs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from models.errors import ModelNotFound, ModelUnsupported
from models.generators.remote.a1111 import A1111Api
from models.generators.remote.addresses import Api, RemoteAddress
from models.generators.remote.apis import Link, Part, RemoteApi, Source, from_base64, split
from models.generators.remote.calls import MAX_PICTURE_BYTES, Calls
from models.generators.remote.frontrunner import FrontrunnerApi
from models.generators.remote.limits import Budget, Lost
from models.generators.remote.openai import OpenAiImages
from models.generators.remote.pictures import Picture, PictureStorage
from models.load_options import RemoteLimits
from models.protocols import GeneratorInfo
from models.protocols.narrow import CallCounts, Delivery, ImageOrder, LostImage, ReceivedImage
from models.public_addresses import Resolver, resolve_host

log = logging.getLogger(__name__)

APIS: Mapping[Api, type[RemoteApi]] = {"openai": OpenAiImages, "a1111": A1111Api, "frontrunner": FrontrunnerApi}
"""The APIs by the beginning of a generator's name."""

CLOSE_TIMEOUT_S = 5.0


class RemoteGenerator(PictureStorage):
    """A generator behind an API.

    `called` is another id for it. `resolver` looks up the hosts of links to images, `clock` gives seconds since 1970
    and decides the day of a call.
    """

    def __init__(
        self,
        address: RemoteAddress,
        limits: RemoteLimits,
        *,
        called: str = "",
        resolver: Resolver = resolve_host,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start its thread, and ask the remote what it makes if its API says so.

        Raises ModelNotFound and ModelUnsupported.
        """
        if limits.decoder is None:
            raise ModelUnsupported(f"{address.id} needs a decoder of images; use it by `frontrunner serve`")
        self._limits = limits
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="remote-generator", daemon=True)
        self._thread.start()
        self._api = APIS[address.api](address, limits)
        self._calls = Calls(address, limits, self._api.headers, budget=Budget(limits, clock), resolver=resolver)
        self._decoder = limits.decoder()
        try:
            info = self._wait(self._describe())
            super().__init__(replace(info, id=called or info.id))
        except Lost as lost:
            self.close()
            raise ModelNotFound(f"{address.id} {lost.detail}") from None

    def generate(self, order: ImageOrder, deliver: Callable[[Delivery], None]) -> Callable[[], None]:
        """See `Generator`."""
        done = asyncio.run_coroutine_threadsafe(self._make(order, deliver), self._loop)

        def cancel() -> None:
            done.cancel()

        return cancel

    def calls(self) -> CallCounts:
        """See `Generator`."""
        return self._calls.counts

    def close(self) -> None:
        """See `Generator`."""
        try:
            self._wait(self._close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            log.warning("a remote generator did not close its connections in time")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run_loop(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _describe(self) -> GeneratorInfo:
        """What the remote makes; one that is just starting is asked again."""
        for attempt in range(self._limits.attempts - 1):
            try:
                return await self._api.describe(self._calls)
            except Lost as lost:
                if lost.reason != "unreachable":
                    raise
                await asyncio.sleep(self._limits.backoff_s * 2**attempt)
        return await self._api.describe(self._calls)

    def _wait(self, work: Any, timeout_s: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._calls.close()
        await self._decoder.close()

    async def _make(self, order: ImageOrder, deliver: Callable[[Delivery], None]) -> None:
        deadline = self._loop.time() + self._limits.deadline_s
        async with asyncio.TaskGroup() as group:
            for part in split(order, self._api.most_per_call):
                group.create_task(self._make_part(_Undelivered(part, self._info.id, deliver), deadline))

    async def _make_part(self, part: _Undelivered, deadline: float) -> None:
        """Deliver a picture or a loss for every place of a part."""
        with part.losses():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._receive_part(part, deadline)
            except TimeoutError:
                raise Lost("timeout", f"made no image within {self._limits.deadline_s:g} s") from None

    async def _receive_part(self, part: _Undelivered, deadline: float) -> None:
        asked = part.part
        answer = await self._calls.make(
            asked.order, len(asked.places), lambda client: self._api.build(asked, client), deadline
        )
        sources = self._api.read(asked, answer)
        received = zip(asked.places, sources, strict=False)
        await asyncio.gather(*(self._receive(part, place, source) for place, source in received))
        # Concerns the places for which nothing was delivered, if there are any.
        raise Lost("missing", f"sends {sum(each is not None for each in sources)} of {len(asked.places)} images")

    async def _receive(self, part: _Undelivered, place: int, source: Source) -> None:
        if source is None:
            return
        with part.losses([place]):
            if isinstance(source, Lost):
                raise source
            data = await self._calls.picture(source.url) if isinstance(source, Link) else from_base64(source)
            if len(data) > MAX_PICTURE_BYTES:
                raise Lost("unreadable", f"sends an image of more than {MAX_PICTURE_BYTES // 2**20} MiB")
            try:
                pixels = await self._decoder.decode(data)
            except ValueError as error:
                raise Lost("unreadable", f"sends no image that can be read: {error}") from None
            sent, size = (pixels.shape[1], pixels.shape[0]), part.part.size
            picture = await asyncio.to_thread(Picture.fitted, pixels, size)
            part.deliver(ReceivedImage(place, picture, sent if sent != size else None))


class _Undelivered:
    """The places of a part for which nothing was delivered yet."""

    def __init__(self, part: Part, name: str, deliver: Callable[[Delivery], None]) -> None:
        self.part = part
        self._name = name
        self._left = set(part.places)
        self._deliver = deliver

    def deliver(self, delivery: Delivery) -> None:
        """Deliver once for a place."""
        if delivery.place in self._left:
            self._left.remove(delivery.place)
            self._deliver(delivery)

    @contextmanager
    def losses(self, places: Sequence[int] | None = None) -> Iterator[None]:
        """Deliver losses for the open places if the block raises Lost.

        For those among `places`, or for all.
        """
        try:
            yield
        except Lost as lost:
            failed = lost
        except Exception as error:
            log.exception("an answer of a remote generator could not be handled")
            failed = Lost("unreadable", f"sends what cannot be handled ({type(error).__name__})")
        else:
            return
        for place in sorted(self._left.intersection(self.part.places if places is None else places)):
            log.info("no image of a remote generator", extra={"generator": self._name, "reason": failed.reason})
            self.deliver(LostImage(place, failed.reason, f"{self._name} {failed.detail}"))
