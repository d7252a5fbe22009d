"""Server-sent events: all pages follow one picture of the appliance, made once a second while somebody looks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.contract.times import Clock
from appliance.web.pages.frame import HEADERS

log = logging.getLogger(__name__)

EVERY_S = 1.0
MOST_STREAMS = 32
"""Of one more the oldest ends; its browser comes back a moment later, and another has to go."""
LONGEST_S = 60.0
"""Then the browser asks anew, and shows its cookie again."""
TAKEN_WITHIN_S = 10.0
"""A client that does not read for so long is not one that looks."""
RETRY_MS = 1000


class Live:
    """``picture`` makes the JSON that all are sent. ``stopping``: whether the appliance is about to stop."""

    def __init__(
        self,
        picture: Callable[[], Awaitable[bytes]],
        *,
        clock: Clock,
        stopping: Callable[[], bool],
        every_s: float = EVERY_S,
    ) -> None:
        self._picture = picture
        self._clock = clock
        self._stopping = stopping
        self._every_s = every_s
        self._streams: list[Stream] = []
        self._drawing: asyncio.Task[None] | None = None
        self.drawn = 0
        """How many pictures were made since the start."""

    def stream(self, is_open: Callable[[], bool]) -> Stream:
        """An answer that follows until its session is not open any more."""
        return Stream(self, is_open)

    @property
    def watched(self) -> int:
        """How many follow."""
        return len(self._streams)

    def enter(self, stream: Stream) -> None:
        """One more looks."""
        if len(self._streams) >= MOST_STREAMS:
            self._streams.pop(0).end()
        self._streams.append(stream)
        if self._drawing is None:
            self._drawing = asyncio.create_task(self._draw(), name="pictures for the status pages")

    def leave(self, stream: Stream) -> None:
        """One looks no more; after the last nothing is drawn."""
        if stream in self._streams:
            self._streams.remove(stream)
        if not self._streams and self._drawing is not None:
            self._drawing.cancel()
            self._drawing = None

    def gives(self, begun_at: float) -> bool:
        """Whether a stream that began then goes on."""
        return not self._stopping() and self._clock.monotonic() - begun_at < LONGEST_S

    def now(self) -> float:
        """The monotonic clock."""
        return self._clock.monotonic()

    async def _draw(self) -> None:
        while True:
            try:
                event = b"data: " + await self._picture() + b"\n\n"
                self.drawn += 1
                for stream in self._streams:
                    stream.show(event)
            except Exception:
                # the pages must not end the appliance: they say by themselves that nothing comes
                log.exception("the status pages have no picture to show")
                for stream in list(self._streams):
                    stream.end()
            await asyncio.sleep(self._every_s)


class Stream(Response):
    """One that follows. It is sent the newest picture and never a queue of them: who reads slowly misses some."""

    def __init__(self, live: Live, is_open: Callable[[], bool]) -> None:
        super().__init__(media_type="text/event-stream", headers={**HEADERS, "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._live = live
        self._is_open = is_open
        self._newest: bytes | None = None
        self._news = asyncio.Event()
        self._ended = False

    def show(self, event: bytes) -> None:
        """There is a new picture."""
        self._newest = event
        self._news.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._news.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve (ASGI)."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        await self._send(send, f"retry: {RETRY_MS}\n\n".encode())
        gone = asyncio.create_task(_until_gone(receive), name="until a status page is left")
        self._live.enter(self)
        try:
            await self._follow(send, gone)
        finally:
            self._live.leave(self)
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
        await self._send(send, b"", more=False)

    async def _follow(self, send: Send, gone: asyncio.Task[None]) -> None:
        begun_at = self._live.now()
        while not gone.done() and self._live.gives(begun_at) and self._is_open():
            news = asyncio.create_task(self._news.wait(), name="news for a status page")
            try:
                await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED, timeout=EVERY_S)
            finally:
                news.cancel()
            if self._ended:
                return
            self._news.clear()
            event, self._newest = self._newest, None
            if event is not None and not gone.done():
                await self._send(send, event)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise ClientDisconnect from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
