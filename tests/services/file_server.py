"""A web server for firmware that does what servers and the lines to them do at their worst."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Self


class FileServer:
    """Serves ``files`` on a free port of the loopback interface.

    ``answer`` replaces the answer to the next requests, one each: raw bytes, after which the connection ends.
    ``stop_after`` bytes of a body it falls silent, ``cut_after`` it resets the connection (each time).
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path, ``Range``."""
        self.heads: list[dict[str, str]] = []
        """All headers of each request."""
        self.answers: list[bytes] = []
        self.stop_after: int | None = None
        self.cut_after: int | None = None
        self.ranges = True
        self.etag: str | None = '"v1"'
        self.headers: dict[str, str] = {}
        self.length = True
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="file server")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            self.requests.append((method, target, headers.get("range")))
            self.heads.append(headers)
            if self.answers:
                writer.write(self.answers.pop(0))
            else:
                await self._answer(writer, target, headers)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, target: str, headers: dict[str, str]) -> None:
        content = self.files.get(target)
        if content is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        start, status = 0, "200 OK"
        answer = dict(self.headers)
        found = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if found and self.ranges and headers.get("if-range", self.etag) == self.etag:
            start = int(found[1])
            if start >= len(content):
                total = f"Content-Range: bytes */{len(content)}"
                writer.write(f"HTTP/1.1 416 Range\r\n{total}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            status = "206 Partial Content"
            answer["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.etag is not None:
            answer["ETag"] = self.etag
        if self.length:
            answer["Content-Length"] = str(len(content) - start)
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in answer.items()), "Connection: close"]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        body = content[start:]
        limit = min(each for each in (self.stop_after, self.cut_after, len(body)) if each is not None)
        for at in range(0, limit, 65_536):
            writer.write(body[at : min(at + 65_536, limit)])
            await writer.drain()
        if limit < len(body):
            if self.cut_after is not None:
                writer.transport.abort()
            else:
                await asyncio.Event().wait()
