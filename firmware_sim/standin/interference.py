"""Failures that hit a whole request before or after Odoo's own code sees it, as networks and proxies make them."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from firmware_sim.standin.faults import Faults
from firmware_sim.standin.refusal import RefusalError

PREFIX = "/iiot/"
TRANSPORT = "stand_in.transport"
PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>a proxy</body></html>\n"
REFUSALS = {
    "unauthorized": (401, "API key missing or wrong"),
    "forbidden": (403, "not for this gateway"),
    "not_found": (404, "no such route"),
}


class TellingProtocol(HttpToolsProtocol):
    """Lets the application reach its connection, so that it can break it."""

    def on_headers_complete(self) -> None:
        """The request's task, made here, has not run yet when the transport is put into its scope."""
        super().on_headers_complete()
        self.scope.setdefault("extensions", {})[TRANSPORT] = {"transport": self.transport}


class Interference:
    """The application as its callers meet it: with the failures that were asked for."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or not."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        place = scope["path"].removeprefix(PREFIX).partition("/")[0]
        if self._faults.take("hang", on=place):
            await _until_gone(receive)
        elif self._faults.take("reset_request", on=place):
            await receive()  # some of the body, if there is one
            await _reset(scope, receive)
        elif answer := self._answer(scope, place):
            await answer(scope, receive, send)
        elif self._faults.take("reset_answer", on=place):
            await self._app(scope, receive, _Cut(scope, receive, send))
        else:
            await self._app(scope, receive, send)

    def _answer(self, scope: Scope, place: str) -> Response | None:
        """What is answered in Odoo's stead."""
        faults = self._faults
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if faults.take("too_large", on=place, size=int(length) if length.isdigit() else 0):
            return RefusalError(413, "too_large", "too large, on request").response()
        if too_many := faults.take("too_many", on=place):
            headers = {"Retry-After": f"{max(1, round(too_many.delay_s))}"}
            return RefusalError(429, "rate_limited", "slower, on request", headers=headers).response()
        if html := faults.take("html", on=place):
            status = html.status or 500
            return HTMLResponse(PAGE.format("Welcome" if status < 400 else "Something went wrong"), status)
        if faults.take("redirect", on=place):
            return RedirectResponse("/web/login", 302)
        for kind, (status, detail) in REFUSALS.items():
            if faults.take(kind, on=place):
                return RefusalError(status, kind, f"{detail}, on request").response()
        return None


class _Cut:
    """Passes on half of the first piece of an answer's body, then resets the connection."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._over = False

    async def __call__(self, message: Message) -> None:
        if self._over:
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        self._over = True
        body = message.get("body", b"")
        await self._send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        await _reset(self._scope, self._receive)


async def _until_gone(receive: Receive) -> None:
    """Take everything in and say nothing, until the caller has had enough."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reset(scope: Scope, receive: Receive) -> None:
    """Break the connection so that the other side gets RST instead of an orderly end."""
    extension: dict[str, Any] = scope.get("extensions", {}).get(TRANSPORT, {})
    transport = extension.get("transport")
    if not isinstance(transport, asyncio.Transport):
        raise ConnectionResetError("reset on request")  # a test without a socket
    sock = transport.get_extra_info("socket")
    # no lingering: what is not sent yet is thrown away (Linux: socket(7), SO_LINGER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _until_gone(receive)
