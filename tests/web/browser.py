"""A browser without a screen: it keeps cookies, logs in, and sends the forms of the pages it has got."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from typing import Any

import httpx
from starlette.applications import Starlette

from tests.web.conftest import KEY, Described

STRANGER = "10.0.0.9"
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
WHY = re.compile(r'<p id="why"[^>]*>(.*?)</p>', re.DOTALL)


class Browser(httpx.AsyncClient):
    """Of somebody elsewhere, over HTTPS unless said otherwise; every answer must be one that is described."""

    def __init__(self, app: Starlette, *, address: str = STRANGER, url: str = "https://gw1.factory.lan:8000") -> None:
        transport = Described(httpx.ASGITransport(app, client=(address, 50_000)), app)
        super().__init__(transport=transport, base_url=url)
        self.csrf = ""

    async def log_in(self, secret: str = KEY, **headers: str) -> httpx.Response:
        """Send the form of the login."""
        return await self.post("/ui/login", data={"password": secret}, headers=headers)

    async def open(self, path: str, **params: Any) -> str:
        """A page that is there; remembers the token that its forms carry."""
        answer = await self.get(path, params=params or None)
        assert answer.status_code == 200, (path, answer.status_code, answer.headers.get("location"))
        token = CSRF.search(answer.text)
        self.csrf = unescape(token[1]) if token else ""
        return answer.text

    async def submit(self, path: str, fields: Mapping[str, str], **headers: str) -> httpx.Response:
        """A form of the page that was opened last."""
        return await self.post(path, data={"csrf": self.csrf, **fields}, headers=headers)


def why(answer: httpx.Response) -> str:
    """What a page says that refuses something."""
    found = WHY.search(answer.text)
    assert found, answer.text
    return unescape(found[1]).strip()
