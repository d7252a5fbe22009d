"""The lines of the pages in the table of routes. They have a door of their own: no line needs an API key."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from appliance.services.limits import FailureLimiter
from appliance.web.dead_letters import DeadLetterRoutes
from appliance.web.pages.access import Guarded, PageAccess, change
from appliance.web.pages.devices import DevicePages
from appliance.web.pages.enrolling import EnrolPage
from appliance.web.pages.frame import HTML, Frame, StaticRoute
from appliance.web.pages.gateway import GatewayPage
from appliance.web.pages.messages import MessagePages
from appliance.web.pages.overview import OverviewPage
from appliance.web.pages.sessions import Session
from appliance.web.routes import Line, describes
from appliance.web.services import WebServices
from appliance.web.status import StatusRoutes


class LoginForm(BaseModel):
    """The form of ``/ui/login``."""

    password: str
    """The password of the pages, or an API key with the scope ``read``."""


class LoginRoutes(Guarded):
    """``/ui/login`` and ``/ui/logout``."""

    def __init__(self, access: PageAccess, frame: Frame) -> None:
        self.access = access
        self.frame = frame

    @describes(HTML)
    async def form(self, request: Request) -> Response:
        """Asks for the password or an API key."""
        await self.frame.prepare()
        changed = request.query_params.get("changed") == "1"
        return self.frame.login("The password is changed. Log in with the new one." if changed else "", good=True)

    @describes(answers={303: None, 403: HTML}, body=LoginForm, form=True)
    async def login(self, request: Request) -> Response:
        """Takes it, and lets the browser in for a while."""
        await self.frame.prepare()
        answer = await self.access.login(request)
        return self.frame.login(answer, status=403) if isinstance(answer, str) else answer

    @describes(answers={303: None, 403: HTML})
    @change("read")
    async def logout(self, request: Request, session: Session, fields: Mapping[str, str]) -> Response:
        """Forgets the browser."""
        return self.access.logout(request)


def page_lines(
    services: WebServices, *, status: StatusRoutes, letters: DeadLetterRoutes, limiter: FailureLimiter
) -> list[Line]:
    """All pages."""
    access = PageAccess(
        password=services.pages.password, find_key=services.api_keys.find, limiter=limiter, clock=services.clock
    )
    frame = Frame(services)
    login = LoginRoutes(access, frame)
    overview = OverviewPage(services, access, frame)
    devices = DevicePages(services, status, access, frame)
    messages = MessagePages(services, letters, access, frame)
    gateway = GatewayPage(services, access, frame)
    enrol = EnrolPage(services, access, frame)
    return [
        Line("GET", "/ui/", overview.overview, open=True),
        Line("GET", "/ui/live", overview.follow, open=True),
        Line("GET", "/ui/devices", devices.devices, open=True),
        Line("GET", "/ui/device/{device_id}", devices.device, open=True),
        Line("GET", "/ui/messages", messages.messages, open=True),
        Line("GET", "/ui/messages/export", messages.export, open=True),
        Line("POST", "/ui/messages/retry", messages.retry, open=True),
        Line("POST", "/ui/messages/remove", messages.remove, open=True),
        Line("GET", "/ui/message/{dead_letter_id}", messages.message, open=True),
        Line("GET", "/ui/gateway", gateway.gateway, open=True),
        Line("POST", "/ui/password", gateway.password, open=True),
        Line("GET", "/ui/enrol", enrol.form, open=True),
        Line("POST", "/ui/enrol", enrol.enrol, open=True),
        Line("GET", "/ui/login", login.form, open=True),
        Line("POST", "/ui/login", login.login, open=True),
        Line("POST", "/ui/logout", login.logout, open=True),
        Line("GET", "/ui/static/{name}", StaticRoute().static, open=True),
    ]
