"""``GET /firmware/{sha256}``: firmware for devices, by signed link, whole or in one range (RFC 9110 §14).

Starlette's FileResponse is not used: it makes its ETag of the file's time, answers several ranges at once and reads
through a pool of threads that others need. A file here never changes under its name, so that name is its ETag.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import NamedTuple

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.contract.ota import SHA256_PATTERN
from appliance.contract.problems import Problem
from appliance.errors import RequestError
from appliance.web.problems import problem_response
from appliance.web.routes import Media, describes
from appliance.web.services import FirmwareDownloads, FirmwareFiles, Updates

PIECE_BYTES = 128 * 1024
_FILE = Media("application/octet-stream")
_SHA256 = re.compile(SHA256_PATTERN)
_RANGE = re.compile(r"bytes=\s*(\d{0,15})-(\d{0,15})\s*", re.IGNORECASE)


class LinkQuery(BaseModel):
    """Query of a link; ``t`` is its signature."""

    t: str = ""


class Span(NamedTuple):
    """From the first byte up to, but not including, ``end``."""

    start: int
    end: int


class UnsatisfiableError(ValueError):
    """A range that the file does not have."""


class FirmwareRoute:
    """``/firmware/{sha256}``."""

    def __init__(self, updates: Updates, files: FirmwareFiles, downloads: FirmwareDownloads) -> None:
        self._updates = updates
        self._files = files
        self._downloads = downloads

    @describes(
        _FILE,
        answers={206: _FILE},
        query=LinkQuery,
        problems={
            403: "the link was not made here, or not for this file",
            404: "the file is not here (any more)",
            410: "the link has expired, or its update was cancelled",
            416: "the file has no such range",
            503: "too many downloads at a time",
        },
    )
    async def file(self, request: Request) -> Response:
        """The file, or a range of it. The link is the permission: no key is needed."""
        sha256 = request.path_params["sha256"]
        if not _SHA256.fullmatch(sha256):
            raise RequestError("there is no such file", status=404, code="not_found")
        link = await self._updates.check_link(sha256, request.query_params.get("t", ""))
        size = self._files.size(sha256)
        if size is None:
            raise RequestError("this file is not here (any more)", status=404, code="not_found")
        etag = f'"{sha256}"'
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": etag,
            # nobody in between is to keep what a link opens
            "Cache-Control": "private, no-store",
            "Content-Type": "application/octet-stream",
        }
        try:
            span = requested_span(request.headers.get("range"), request.headers.get("if-range"), etag=etag, size=size)
        except UnsatisfiableError:
            problem = Problem(416, "bad_request", f"the file has {size} bytes")
            return problem_response(problem, {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"})
        if span is not None:
            headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
        status, span = (200, Span(0, size)) if span is None else (206, span)
        headers["Content-Length"] = str(span.end - span.start)
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        place = self._downloads.download(link.position)
        sent = place.__enter__()
        try:
            descriptor = await self._files.open(sha256)
        except BaseException:
            place.__exit__(None, None, None)
            raise
        if descriptor is None:
            place.__exit__(None, None, None)
            raise RequestError("this file is not here (any more)", status=404, code="not_found")
        return FileStream(self._files, descriptor, span, place=place, sent=sent, status_code=status, headers=headers)


class FileStream(Response):
    """Sends a range of an open file, as fast as the client reads; it closes the file, and gives the place back."""

    def __init__(
        self,
        files: FirmwareFiles,
        descriptor: int,
        span: Span,
        *,
        place: AbstractContextManager[Callable[[int], None]],
        sent: Callable[[int], None],
        status_code: int,
        headers: dict[str, str],
    ) -> None:
        self.status_code = status_code
        self.background = None
        self.init_headers(headers)
        self._files = files
        self._descriptor = descriptor
        self._span = span
        self._place = place
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it (ASGI)."""
        gone = asyncio.create_task(_until_gone(receive), name="firmware download")
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at, end = self._span
            while at < end and not gone.done():
                read = partial(os.pread, self._descriptor, min(PIECE_BYTES, end - at), at)
                piece = await self._files.in_thread(read)
                if not piece:
                    raise RuntimeError("a firmware file is shorter than it was")
                at += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": at < end})
                self._sent(len(piece))
            if self._span.start == end:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            os.close(self._descriptor)
            self._place.__exit__(None, None, None)


def requested_span(range_header: str | None, if_range: str | None, *, etag: str, size: int) -> Span | None:
    """The range that is asked for, or ``None`` for all of it.

    What is no single range of bytes, or is bound to another file by ``If-Range``, means all of it (RFC 9110 §14.2,
    §13.1.5). :class:`UnsatisfiableError` for a range that lies outside.
    """
    found = None if range_header is None else _RANGE.fullmatch(range_header.strip())
    if found is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = found[1], found[2]
    if not first:
        if not last:
            return None
        if int(last) == 0 or size == 0:
            raise UnsatisfiableError
        return Span(max(size - int(last), 0), size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise UnsatisfiableError
    return Span(int(first), min(int(last) + 1, size) if last else size)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
