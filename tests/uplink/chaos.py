"""An Odoo that stores by the contract and answers badly on request; raw sockets, so that it can break HTTP itself."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Fault = Callable[["ChaosOdoo", "Post", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Post:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    data: dict[str, Any]

    @property
    def seqs(self) -> list[int]:
        return [message["seq"] for message in self.data.get("messages", [])]


@dataclass
class ChaosOdoo:
    """Receipts decide what is stored; the other fields say how it misbehaves."""

    faults: deque[Fault] = field(default_factory=deque)
    """One is used up by each request; when there is none, the answer is as it should be."""
    culprit: Callable[[dict[str, Any]], bool] = lambda message: False
    """A batch with such a message is refused as a whole (422)."""
    poison: Callable[[dict[str, Any]], bool] = lambda message: False
    """A batch with such a message ends in an HTML page (500)."""
    put_off: Counter[int] = field(default_factory=Counter)
    """How often a seq is answered ``retry``."""
    forgotten: Counter[int] = field(default_factory=Counter)
    """How often a seq is stored and missing from the results."""
    rejected: set[int] = field(default_factory=set)
    most_bytes: int | None = None
    """Longer bodies get 413."""
    cuts_instead: bool = False
    """Longer bodies are not answered but cut off, while they are being sent."""
    keeps_connections: bool = False
    work: list[bool] = field(default_factory=list)
    """Whether the answers say that there is work; the first is used up by each."""
    minds_floors: bool = False
    """Whether it keeps floors and highest numbers as the contract says, and answers ``behind``."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    """Effects, in their order."""
    receipts: set[tuple[str, str, int]] = field(default_factory=set)
    floors: Counter[str] = field(default_factory=Counter)
    highest: Counter[str] = field(default_factory=Counter)
    """By epoch."""
    posts: list[Post] = field(default_factory=list)
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()
        self.released = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stored_seqs(self) -> list[int]:
        return [message["seq"] for message in self.stored]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to become true of what arrived."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def until_more(self, count: int) -> None:
        """Wait for so many more requests."""
        wanted = len(self.posts) + count
        await self.until(lambda: len(self.posts) >= wanted)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._request(reader, writer):
                pass
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
        length = int(headers["content-length"])
        if self.most_bytes is not None and length > self.most_bytes:
            self.posts.append(Post(lines[0].split()[1], headers, b"", {}))
            self.changed.set()
            if self.cuts_instead:
                cut(writer)
                return False
            await answer(writer, 413, b"<html>too large</html>", content_type="text/html")
            # as nginx does: let the client read the answer before the connection goes
            await reader.readexactly(length)
            return False
        body = await reader.readexactly(length)
        post = Post(lines[0].split()[1], headers, body, json.loads(body))
        self.posts.append(post)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            fault = self.faults.popleft() if self.faults else well
            await fault(self, post, writer)
        finally:
            self.in_flight -= 1
            self.changed.set()
        return self.keeps_connections

    def backup(self) -> tuple[Any, ...]:
        """What it knows now, for :meth:`restore`."""
        return (self.stored[:], set(self.receipts), Counter(self.floors), Counter(self.highest))

    @staticmethod
    def nothing() -> tuple[Any, ...]:
        """The backup of an empty database."""
        return ([], set(), Counter(), Counter())

    def restore(self, backup: tuple[Any, ...]) -> None:
        """Know again what it knew then, and nothing else."""
        self.stored, self.receipts, self.floors, self.highest = backup

    def is_behind(self, post: Post) -> bool:
        """Whether it knows less than it once confirmed; if not, it moves its floor."""
        epoch = post.data["epoch"]
        count = sum(message["epoch"] == epoch for message in self.stored)
        if post.data["settled"] > self.highest[epoch] or post.data["stored"] > count:
            return True
        self.floors[epoch] = max(self.floors[epoch], post.data["floor"])
        gateway = post.data["gateway"]
        self.receipts = {key for key in self.receipts if key[:2] != (gateway, epoch) or key[2] >= self.floors[epoch]}
        return False

    def store(self, post: Post) -> list[dict[str, Any]]:
        """What Odoo's transaction does, in the order of the batch; the results."""
        results = []
        stuck = set()
        for message in post.data["messages"]:
            seq, ordered = message["seq"], message["kind"] != "telemetry"
            receipt = (post.data["gateway"], post.data["epoch"], seq)
            if ordered and message["device"] in stuck:
                results.append({"seq": seq, "status": "retry"})
            elif self.put_off[seq] > 0:
                self.put_off[seq] -= 1
                if ordered:
                    stuck.add(message["device"])
                results.append({"seq": seq, "status": "retry"})
            elif seq in self.rejected:
                results.append(
                    {"seq": seq, "status": "rejected", "code": "unknown_device", "message": "no such device"}
                )
            elif receipt in self.receipts or seq < self.floors[post.data["epoch"]]:
                results.append({"seq": seq, "status": "duplicate"})
            else:
                self.receipts.add(receipt)
                self.highest[post.data["epoch"]] = max(self.highest[post.data["epoch"]], seq)
                self.stored.append(message | {"epoch": post.data["epoch"]})
                results.append({"seq": seq, "status": "stored"})
        self.forgotten.subtract(post.seqs)
        self.changed.set()
        return [result for result in results if self.forgotten[result["seq"]] < 0]


async def answer(
    writer: asyncio.StreamWriter, status: int, body: bytes, *, content_type: str = "application/json", **headers: str
) -> None:
    """Write an HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


def cut(writer: asyncio.StreamWriter) -> None:
    """Reset the connection (RST, not FIN)."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def well(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    """As the contract says."""
    if any(odoo.poison(message) for message in post.data["messages"]):
        await html_500(odoo, post, writer)
    elif any(odoo.culprit(message) for message in post.data["messages"]):
        body = json.dumps({"code": "invalid_message", "detail": "a message cannot be read"}).encode()
        await answer(writer, 422, body, content_type="application/problem+json")
    elif odoo.minds_floors and odoo.is_behind(post):
        floor = odoo.floors[post.data["epoch"]]
        await answer(writer, 409, json.dumps({"code": "behind", "detail": "restored", "floor": floor}).encode())
    else:
        results = odoo.store(post)
        work = odoo.work.pop(0) if odoo.work else False
        await answer(writer, 200, json.dumps({"results": results, "work": work}).encode())


async def reset_before(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    cut(writer)


async def reset_mid_answer(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    body = json.dumps({"results": odoo.store(post)}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])
    await writer.drain()
    writer.transport.abort()


async def stored_then_500(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    odoo.store(post)
    await html_500(odoo, post, writer)


async def answered_twice(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    body = json.dumps({"results": odoo.store(post)}).encode()
    await answer(writer, 200, body)
    await answer(writer, 200, body)


async def stored_then_hangs(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    """The late answer: the client has given up when it comes."""
    results = odoo.store(post)
    await odoo.released.wait()
    await answer(writer, 200, json.dumps({"results": results}).encode())


async def hangs(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    odoo.changed.set()
    await odoo.released.wait()


async def html_500(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 500, b"<html><h1>Internal Server Error</h1></html>", content_type="text/html")


async def stored_then_html_200(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
    odoo.store(post)
    await answer(writer, 200, b"<html>please log in</html>", content_type="text/html")


def status(code: int, *, problem: str | None = None, **headers: str) -> Fault:
    """Answers this status, and stores nothing."""

    async def fault(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
        body = b"{}" if problem is None else json.dumps({"code": problem, "detail": "for a reason"}).encode()
        await answer(writer, code, body, **headers)

    return fault


def results(*items: dict[str, Any]) -> Fault:
    """Stores, and answers these results in place of the true ones."""

    async def fault(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
        odoo.store(post)
        await answer(writer, 200, json.dumps({"results": items}).encode())

    return fault


EVERY_FAULT: list[Fault] = [
    reset_before,
    reset_mid_answer,
    stored_then_500,
    answered_twice,
    html_500,
    stored_then_html_200,
    status(429, problem="gateway_busy", retry_after="2"),
    status(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT", date="Wed, 21 Oct 2026 07:27:50 GMT"),
    status(408),
    status(409, problem="behind"),
    status(401),
    status(302, location="https://elsewhere.example/login?next=/iiot/webhook"),
    status(413),
    status(422, problem="invalid_message"),
    results(),
]
