"""The box itself: what runs on it, how long its certificate lasts, its disk, its last log lines, its password."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from appliance.errors import PasswordRefusedError
from appliance.web.pages.access import Guarded, PageAccess, change, page
from appliance.web.pages.frame import HTML, Frame
from appliance.web.pages.sessions import Session
from appliance.web.routes import describes
from appliance.web.services import WebServices


class PasswordForm(BaseModel):
    """The form of ``/ui/password``."""

    current: str = ""
    """Not asked for where an API key has opened the session."""
    new: str
    again: str
    csrf: str


class GatewayPage(Guarded):
    """``/ui/gateway`` and ``/ui/password``."""

    def __init__(self, services: WebServices, access: PageAccess, frame: Frame) -> None:
        self.access = access
        self.frame = frame
        self._services = services

    @describes(HTML, answers={303: None})
    @page
    async def gateway(self, request: Request, session: Session) -> Response:
        """Versions, certificate, disk, and what the log said last."""
        return self._show(session)

    @describes(answers={303: None, 403: HTML, 422: HTML}, body=PasswordForm, form=True)
    @change("full")
    async def password(self, request: Request, session: Session, fields: Mapping[str, str]) -> Response:
        """Changes the password; all who have logged in with the old one must do so again."""
        if fields.get("new", "") != fields.get("again", ""):
            return self._show(session, wrong="The new password was not typed the same way twice.")
        if session.key is None:
            refusal = await self.access.refusal(fields.get("current", ""), request)
            if refusal:
                return self._show(session, wrong=refusal)
        try:
            await self._services.pages.password.change(fields.get("new", ""))
        except PasswordRefusedError as error:
            return self._show(session, wrong=f"Not changed: {error}.")
        return Response(status_code=303, headers={"Location": "/ui/login?changed=1"})

    def _show(self, session: Session, *, wrong: str = "") -> Response:
        services = self._services
        return self.frame.html(
            "gateway.html",
            session,
            status=422 if wrong else 200,
            facts=services.pages.facts(),
            log=services.pages.log_lines() if session.may("read") else [],
            wrong=wrong,
            page="gateway",
        )
