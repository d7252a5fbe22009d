"""The form that makes the appliance known to an Odoo; it does what the command ``enroll`` does, and restarts."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from appliance.errors import ApplianceError, BusyError, SettingsError
from appliance.web.pages.access import Guarded, PageAccess, change, page
from appliance.web.pages.frame import HTML, Frame
from appliance.web.pages.sessions import Session
from appliance.web.routes import describes
from appliance.web.services import WebServices

log = logging.getLogger(__name__)


class EnrolForm(BaseModel):
    """The form of ``/ui/enrol``."""

    odoo: str
    """Odoo's address."""
    code: str
    database: str = ""
    csrf: str


class EnrolPage(Guarded):
    """``/ui/enrol``."""

    def __init__(self, services: WebServices, access: PageAccess, frame: Frame) -> None:
        self.access = access
        self.frame = frame
        self._services = services
        self._busy = False

    @describes(HTML, answers={303: None})
    @page
    async def form(self, request: Request, session: Session) -> Response:
        """Asks for Odoo's address and the code."""
        return self._form(session, {}, "")

    @describes(HTML, answers={303: None, 403: HTML, 422: HTML, 503: HTML}, body=EnrolForm, form=True)
    @change("full")
    async def enrol(self, request: Request, session: Session, fields: Mapping[str, str]) -> Response:
        """Turns the code into a key for Odoo; then the appliance restarts by itself."""
        odoo, code = fields.get("odoo", ""), fields.get("code", "")
        if not odoo or not code:
            return self._form(session, fields, "Odoo's address and the code are both needed.")
        if self._busy:
            raise BusyError("somebody is enrolling this appliance at this moment")
        self._busy = True
        try:
            done = await self._services.pages.enrol(odoo, code, fields.get("database") or None)
        except SettingsError as error:
            problems = (each.replace("ODOO_BASE_URL", "The address") for each in error.problems)
            return self._form(session, fields, f"{'. '.join(problems)}.")
        except ApplianceError as error:
            return self._form(session, fields, f"Not enrolled: {error}")
        finally:
            self._busy = False
        log.warning("the appliance was enrolled at %s, by %s; it restarts", done.base_url, session.who)
        answer = self.frame.html("enrolled.html", session, done=done, page="enrol")
        # after the answer has gone out: the browser shall know why the box is away for a moment
        answer.background = BackgroundTask(self._restart)
        return answer

    async def _restart(self) -> None:
        # a coroutine: a plain function would be called by another thread than the loop's
        self._services.pages.restart()

    def _form(self, session: Session, fields: Mapping[str, str], wrong: str) -> Response:
        return self.frame.html(
            "enrol.html",
            session,
            status=422 if wrong else 200,
            odoo=fields.get("odoo", ""),
            database=fields.get("database", ""),
            wrong=wrong,
            uplink=self._services.health().details.get("uplink", {}),
            facts=self._services.pages.facts(),
            page="enrol",
        )
