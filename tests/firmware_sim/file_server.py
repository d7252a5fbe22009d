"""A small HTTP server for one file: with Range, and with failures on request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FileServer:
    """Serves ``content`` at every path. The counters and switches are for the test."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.url = ""
        self.ranges: list[int] = []
        """The first byte that each request asked for."""
        self.statuses: list[tuple[int, str]] = []
        """Answered to the next requests instead of the file: status, and more header lines."""
        self.cut_after: int | None = None
        """The connection breaks after so many bytes of each body."""
        self.honours_range = True
        self.stall_at: int | None = None
        """Once a body has come to this byte of the file, nothing more is sent until :attr:`go_on` is set."""
        self.stalled = asyncio.Event()
        self.go_on = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.decode().lower(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        start = int(head.partition("range: bytes=")[2].partition("-")[0] or 0)
        self.ranges.append(start)
        if self.statuses:
            status, more = self.statuses.pop(0)
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{more}\r\n".encode())
            return
        start = start if self.honours_range else 0
        body = self.content[start:]
        total = len(self.content)
        part = f"206 X\r\nContent-Range: bytes {start}-{total - 1}/{total}" if start else "200 X"
        writer.write(f"HTTP/1.1 {part}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        if self.stall_at is not None and self.stall_at > start:
            writer.write(body[: self.stall_at - start])
            await writer.drain()
            self.stalled.set()
            await self.go_on.wait()
            body = body[self.stall_at - start :]
        if self.cut_after is not None:
            writer.write(body[: self.cut_after])
            await writer.drain()
            raise ConnectionResetError
        writer.write(body)
        await writer.drain()


@asynccontextmanager
async def file_server(content: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[FileServer]:
    """On a free port of the loopback interface."""
    one = FileServer(content)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    one.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/firmware/file?t=link"
    try:
        yield one
    finally:
        one.go_on.set()
        server.close()
        await server.wait_closed()
