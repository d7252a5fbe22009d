"""The stream that keeps the pages up to date: one picture for all, none without a viewer, and nobody holds it up."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from appliance.services.limits import FailureLimiter
from appliance.web.pages import live as live_module
from appliance.web.pages.access import PageAccess
from appliance.web.pages.frame import Frame
from appliance.web.pages.live import LONGEST_S, MOST_STREAMS, Live, Stream
from appliance.web.pages.overview import OverviewPage
from tests.web.browser import Browser
from tests.web.conftest import TestClock, World

WITHIN_S = 10
SCOPE = {"type": "http", "method": "GET"}


class Client:
    """One that looks on; ``reads`` is cleared while it does not."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.events: list[bytes] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self.finished = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.got = asyncio.Event()
        self._gone = asyncio.Event()
        self.task = asyncio.create_task(stream(SCOPE, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.finished = not message.get("more_body")
        if message["body"].startswith(b"data: "):
            self.events.append(message["body"])
            self.got.set()

    async def next(self) -> bytes:
        self.got.clear()
        await asyncio.wait_for(self.got.wait(), WITHIN_S)
        return self.events[-1]

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, WITHIN_S)


class Picture:
    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None

    async def __call__(self) -> bytes:
        if self.error:
            raise self.error
        self.count += 1
        return b"%d" % self.count


class Watched:
    """Streams whose every part can be turned."""

    def __init__(self) -> None:
        self.picture = Picture()
        self.clock = TestClock()
        self.stopping = False
        self.open = True
        self.live = Live(self.picture, clock=self.clock, stopping=lambda: self.stopping, every_s=0.01)
        self.clients: list[Client] = []

    def look(self) -> Client:
        self.clients.append(Client(self.live.stream(lambda: self.open)))
        return self.clients[-1]


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    yield watched
    for client in watched.clients:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in watched.clients), return_exceptions=True)
    assert watched.live.watched == 0


@asynccontextmanager
async def ended(client: Client) -> AsyncIterator[None]:
    yield
    await asyncio.wait_for(client.task, WITHIN_S)
    assert client.finished


async def test_all_are_sent_the_same_picture_and_without_anybody_none_is_made(watched: Watched) -> None:
    await asyncio.sleep(0.05)
    assert watched.picture.count == 0
    first, second = watched.look(), watched.look()
    await first.next()
    await second.next()
    assert first.status == 200
    assert first.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in first.headers
    await first.next()
    assert set(first.events) & set(second.events), "one picture for both"
    assert watched.live.drawn == watched.picture.count
    await first.leave()
    await second.leave()
    made = watched.picture.count
    await asyncio.sleep(0.05)
    assert watched.picture.count == made


async def test_who_reads_slowly_misses_pictures_and_holds_nobody_up(watched: Watched) -> None:
    slow, quick = watched.look(), watched.look()
    await slow.next()
    slow.reads.clear()
    seen = len(quick.events)
    while len(quick.events) < seen + 20:
        await quick.next()
    slow.reads.set()
    await slow.next()
    assert len(slow.events) < len(quick.events) - 15
    newest = int((await slow.next()).split()[1])
    assert newest >= watched.picture.count - 2, "the newest, not a queue of old ones"


async def test_who_does_not_read_at_all_is_cut_off(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "TAKEN_WITHIN_S", 0.05)
    silent = watched.look()
    await silent.next()
    silent.reads.clear()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(silent.task, WITHIN_S)


async def test_of_one_stream_too_many_the_oldest_ends(watched: Watched) -> None:
    clients = []
    for _ in range(MOST_STREAMS):
        clients.append(watched.look())
        await clients[-1].next()
    async with ended(clients[0]):
        await watched.look().next()
    assert watched.live.watched == MOST_STREAMS
    assert not clients[1].task.done()


async def test_a_stream_ends_with_its_session_after_a_minute_and_when_the_appliance_stops(watched: Watched) -> None:
    for turn in ("open", "ahead", "stopping"):
        client = watched.look()
        await client.next()
        async with ended(client):
            if turn == "open":
                watched.open = False
            elif turn == "ahead":
                watched.clock.ahead += LONGEST_S
            else:
                watched.stopping = True
        watched.open = True


async def test_a_picture_that_cannot_be_made_ends_the_streams_and_is_logged(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    client = watched.look()
    await client.next()
    async with ended(client):
        watched.picture.error = RuntimeError("broken")
    assert "no picture to show" in caplog.text
    watched.picture.error = None
    assert await watched.look().next()


async def test_the_picture_has_a_text_for_each_element_that_the_page_wants_kept_up_to_date(world: World) -> None:
    async with Browser(world.app()) as browser:
        await browser.log_in()
        page = await browser.open("/ui/")
    services = world.services
    access = PageAccess(
        password=services.pages.password,
        find_key=services.api_keys.find,
        limiter=FailureLimiter(most=1, window_s=1, clock=world.clock),
        clock=world.clock,
    )
    picture = json.loads((await OverviewPage(services, access, Frame(services)).picture()).encoded())
    assert set(re.findall(r'data-text="([^"]+)"', page)) <= picture["texts"].keys()
    assert set(re.findall(r'data-path="([^"]+)"', page)) == picture["paths"].keys()
    assert picture["status"] == "ok"
