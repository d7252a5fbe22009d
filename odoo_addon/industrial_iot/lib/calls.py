"""One HTTP call to an appliance's own API: short, pinned to its certificate authority, and never followed elsewhere."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from . import json_text

CONNECT_S = 2.0
READ_S = 3.0
ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Reply:
    """What came of a call. ``code`` is that of the problem document, if it was one."""

    status: int | None
    code: str | None = None
    text: str = ""
    reached: bool = True
    """Whether the request may have arrived."""

    @property
    def ok(self) -> bool:
        """It was taken."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """It was refused for good: asking again, or by another way, would give the same."""
        return self.status in (400, 404, 409, 413, 422) and self.code is not None


def post(url: str, path: str, *, key: str, ca_pem: str | None, body: Any) -> Reply:
    """POST JSON. Never raises for what the network or the other side does."""
    connection = None
    reached = False
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return Reply(None, text="the address is no http or https address", reached=False)
        if parts.scheme == "https":
            trust = ssl.create_default_context(cadata=ca_pem) if ca_pem else ssl.create_default_context()
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=CONNECT_S, context=trust)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT_S)
        connection.connect()
        connection.sock.settimeout(READ_S)
        reached = True
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", parts.path.rstrip("/") + path, body=json_text.dumps(body).encode(), headers=headers)
        answer = connection.getresponse()
        content = _read(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # ssl.SSLError is an OSError; a wrong port or PEM is a ValueError or SSLError
        return Reply(None, text=f"{type(error).__name__}: {error}"[:300], reached=reached)
    finally:
        if connection is not None:
            connection.close()
    return _reply(answer.status, content)


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The body, as much of it as is of use, within twice the time to read."""
    until, content = time.monotonic() + 2 * READ_S, b""
    while len(content) < ANSWER_BYTES:
        piece = answer.read1(8192)
        if not piece:
            break
        content += piece
        if time.monotonic() > until:
            raise TimeoutError("the answer takes too long")
    return content


def _reply(status: int, content: bytes) -> Reply:
    try:
        document = json_text.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Reply(status, text=f"HTTP {status}")
    code, text = document.get("code"), document.get("detail") or document.get("title")
    return Reply(
        status,
        code=code[:64] if isinstance(code, str) and code else None,
        text=text[:300] if isinstance(text, str) else f"HTTP {status}",
    )
