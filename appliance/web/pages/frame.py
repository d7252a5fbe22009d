"""What all pages have in common: the frame around them, the headers, and the files that they load."""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from appliance.contract.problems import Problem
from appliance.web.pages import words
from appliance.web.pages.sessions import Session
from appliance.web.problems import problem_response
from appliance.web.routes import Media, describes
from appliance.web.services import WebServices

if TYPE_CHECKING:
    from jinja2 import Environment

WEB = Path(__file__).parent.parent
STATIC = {"live.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
HTML = Media("text/html")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Frame:
    """Renders templates. Everything in them is escaped, whoever it comes from."""

    def __init__(self, services: WebServices) -> None:
        self._services = services
        self._prepared = False

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(WEB / "templates"),
            autoescape=True,
            finalize=words.tame,
            undefined=StrictUndefined,  # a figure that was renamed must not vanish from a page without a word
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(words.FILTERS)
        return environment

    async def prepare(self) -> None:
        """Read and compile all templates, in a thread; nobody gets to a page but by the login, which awaits this."""
        if not self._prepared:
            await asyncio.to_thread(self._compile)
            self._prepared = True

    def _compile(self) -> None:
        for name in self._environment.list_templates():
            self._environment.get_template(name)

    def render(self, template: str, **values: Any) -> str:
        """A template as text."""
        return self._environment.get_template(template).render(name=self._services.name, **values)

    def html(self, template: str, session: Session, *, status: int = 200, **values: Any) -> Response:
        """A page for who has logged in."""
        health = self._services.health().status
        text = self.render(template, session=session, health=health, **values)
        return Response(text, status, media_type="text/html", headers=HEADERS)

    def refusal(self, session: Session, status: int, why: str) -> Response:
        """A page that says why something was not done."""
        return self.html("refusal.html", session, status=status, why=why[:1].upper() + why[1:], page="")

    def login(self, message: str = "", *, status: int = 200, good: bool = False) -> Response:
        """The page for who has not."""
        text = self.render("login.html", message=message, good=good)
        return Response(text, status, media_type="text/html", headers=HEADERS)


class StaticRoute:
    """``/ui/static/…``: nothing in it is secret."""

    @describes(
        answers={200: [Media(media_type) for media_type in dict.fromkeys(STATIC.values())]},
        problems={404: "no such file"},
    )
    async def static(self, request: Request) -> Response:
        """Script, style and icon."""
        name = request.path_params["name"]
        if name not in STATIC:
            return problem_response(Problem(404, "not_found", "no such file"))
        return FileResponse(
            WEB / "static" / name, media_type=STATIC[name], headers={"Cache-Control": "no-cache", **HEADERS}
        )
