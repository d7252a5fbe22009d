"""The status page for people, under ``/ui/``: what the appliance holds, whether Odoo answers, how the devices are.

The page is whole as it comes, and a script of its own brings the figures up to date every second. It shows, and
changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from appliance.contract.problems import Problem
from appliance.contract.times import rfc3339
from appliance.web.bodies import json_response, parse
from appliance.web.page_access import PageAccess
from appliance.web.problems import problem_response
from appliance.web.routes import JSON, Media, describes
from appliance.web.services import WebServices
from appliance.web.status import DevicesQuery, StatusRoutes

HERE = Path(__file__).parent
STATIC = {
    "status.js": "text/javascript",
    "device.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
PAGE = "/ui/"
_HTML = Media("text/html")
LOGIN_PAGE = "/ui/login"
DEVICES_SHOWN = 100
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


class LoginForm(BaseModel):
    """The form of ``/ui/login``."""

    key: str
    """An API key with the scope ``read``."""


class PageRoutes:
    """The pages, and the figures that keep them up to date."""

    def __init__(self, services: WebServices, status: StatusRoutes, access: PageAccess) -> None:
        self._services = services
        self._status = status
        self._access = access
        self._environment = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=select_autoescape())

    @describes(_HTML, answers={303: None}, query=DevicesQuery)
    async def page(self, request: Request) -> Response:
        """The status page."""
        if not self._access.admits(request):
            return Response(status_code=303, headers={"Location": LOGIN_PAGE})
        return self._html("status.html", data=await self._data(_query(request)))

    @describes(_HTML, answers={303: None}, problems={404: "no such device is paired here"})
    async def device(self, request: Request) -> Response:
        """All about one device: why it is not online, what it runs, what became of its readings."""
        if not self._access.admits(request):
            return Response(status_code=303, headers={"Location": LOGIN_PAGE})
        return self._html("device.html", device=await self._status.device_content(request.path_params["device_id"]))

    @describes(Media(JSON, {"type": "object"}), query=DevicesQuery, problems={401: "log in first"})
    async def data(self, request: Request) -> Response:
        """All that the page shows, as JSON; parameters as of ``GET /api/v1/devices/status``."""
        if not self._access.admits(request):
            return problem_response(Problem(401, "unauthorized", "log in to see this"))
        return json_response(to_json(await self._data(_query(request))))

    @describes(_HTML)
    async def login_page(self, request: Request) -> Response:
        """Asks for an API key."""
        return self._html("login.html", message="")

    @describes(_HTML, status=403, answers={303: None}, body=LoginForm, form=True)
    async def login(self, request: Request) -> Response:
        """Takes an API key, and remembers the browser for a while."""
        answer = await self._access.login(request)
        if isinstance(answer, str):
            return self._html("login.html", message=answer, status_code=403)
        answer.headers["Location"] = PAGE
        return answer

    @describes(answers={303: None})
    async def logout(self, request: Request) -> Response:
        """Forgets the browser."""
        answer = self._access.logout(request)
        answer.headers["Location"] = LOGIN_PAGE
        return answer

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
            HERE / "static" / name, media_type=STATIC[name], headers={"Cache-Control": "no-cache", **HEADERS}
        )

    async def _data(self, query: DevicesQuery) -> dict[str, Any]:
        services = self._services
        health = services.health()
        figures = await services.metrics()
        total = None if figures.store is None else figures.store.total
        oldest_ms = figures.backlog.oldest_received_at_ms
        devices = self._status.devices_page(query)
        return {
            "name": services.name,
            "version": services.version,
            "time": rfc3339(services.clock.now_ms()),
            "status": health.status,
            "reasons": health.reasons,
            "uplink": health.details.get("uplink", {}),
            "buffer": {
                "waiting": figures.backlog.waiting,
                "parked": figures.backlog.parked,
                "oldest_received_at": None if oldest_ms is None else rfc3339(oldest_ms),
            },
            "disk": figures.disk,
            "devices_paired": figures.devices_paired,
            "devices_online": figures.devices_online,
            "commands_open": figures.commands_open,
            "ledger": None
            if total is None
            else {
                "received": total.received,
                "stored": total.stored,
                "waiting": total.waiting,
                "parked": total.parked,
                "removed": total.removed,
                "refused": total.refused,
                "repeated": total.repeated,
            },
            "devices": devices["devices"],
            "next": devices["next"],
            "search": query.search or "",
            "filter": query.status or "",
        }

    def _html(self, template: str, *, status_code: int = 200, **values: Any) -> Response:
        content = self._environment.get_template(template).render(name=self._services.name, **values)
        return Response(content, status_code, media_type="text/html", headers=HEADERS)


def _query(request: Request) -> DevicesQuery:
    # a form sends its empty fields too
    given = {key: value for key, value in request.query_params.items() if value and key in DevicesQuery.model_fields}
    return parse(DevicesQuery, {"limit": DEVICES_SHOWN, **given})
