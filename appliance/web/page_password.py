"""The password of the status pages, for administrators at the box who cannot log in to change it there."""

from __future__ import annotations

import logging

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.web.answers import NewPassword
from appliance.web.bodies import json_response, parse, read_json
from appliance.web.routes import describes
from appliance.web.services import Password

log = logging.getLogger(__name__)


class PasswordOrder(BaseModel):
    """Body of ``POST /api/v1/page-password``; where ``password`` is null one is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    password: str | None


class PagePasswordRoute:
    """``/api/v1/page-password``."""

    def __init__(self, password: Password) -> None:
        self._password = password

    @describes(NewPassword, body=PasswordOrder)
    async def change(self, request: Request) -> Response:
        """A new password for the status pages; all who have logged in with the old one must do so again."""
        order = parse(PasswordOrder, await read_json(request))
        made = await self._password.change(order.password)
        log.warning("the password of the status pages was changed over the API")
        return json_response(to_json({"password": made}))
