"""A page to look at what arrived, and to break things: for browsers on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from firmware_sim.standin.bodies import local_only

HEADERS = {
    # all of it comes from here, and nobody may frame it
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """``/`` and, for its refresh, ``/sim/live``."""

    def __init__(self, *, content: Callable[[], dict[str, Any]]) -> None:
        self._content = content
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
        )

    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route("/", local_only(self._page), methods=["GET"]),
            Route("/sim/live", local_only(self._live), methods=["GET"]),
        ]

    async def _page(self, request: Request) -> Response:
        return self._render("page.html")

    async def _live(self, request: Request) -> Response:
        """The part of the page that changes."""
        return self._render("live.html")

    def _render(self, name: str) -> Response:
        return HTMLResponse(self._templates.get_template(name).render(self._content()), headers=HEADERS)
