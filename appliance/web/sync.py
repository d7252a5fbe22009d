"""Odoo has work: it says so, where it reaches the appliance, in place of handing over everything piece by piece."""

from __future__ import annotations

from collections.abc import Callable

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.errors import NoOdooError
from appliance.web.answers import SyncSoon
from appliance.web.bodies import json_response
from appliance.web.routes import describes


class SyncRoute:
    """``POST /api/v1/sync``."""

    def __init__(self, sync_soon: Callable[[], bool]) -> None:
        self._sync_soon = sync_soon

    @describes(SyncSoon, status=202, problems={409: "this appliance is not connected with an Odoo"})
    async def soon(self, request: Request) -> Response:
        """Asks Odoo for work at once instead of in a few seconds; it does not wait for the answer."""
        if not self._sync_soon():
            raise NoOdooError("this appliance is not connected with an Odoo")
        return json_response(to_json(SyncSoon()), 202)
