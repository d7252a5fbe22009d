"""Firmware updates: begin one, tell how far it is, cancel it."""

from __future__ import annotations

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.ota import SendUpdate, UpdateStatus
from appliance.web.answers import UpdateAccepted
from appliance.web.bodies import json_response, parse, read_json
from appliance.web.routes import describes
from appliance.web.services import Updates


class OtaRoutes:
    """``/api/v1/ota/…``."""

    def __init__(self, updates: Updates) -> None:
        self._updates = updates

    @describes(
        UpdateAccepted,
        status=202,
        body=SendUpdate,
        problems={
            404: "no such device is paired here, or there is no such update to cancel",
            409: "the device is disabled or has an open update, the id was given to another order, or it has ended",
            422: "the parameters are wrong, the file is too large, or the offer is too large for the device",
            429: "too many updates are open",
        },
    )
    async def send(self, request: Request) -> Response:
        """202 as soon as the order is on disk; the same ``update_id`` again gets the first result."""
        status = await self._updates.send(parse(SendUpdate, await read_json(request)))
        return json_response(to_json({"update_id": status.update_id, "state": status.state}), 202)

    @describes(UpdateStatus, problems={404: "no such update is known"})
    async def status(self, request: Request) -> Response:
        """State and history."""
        status = await self._updates.status(request.path_params["update_id"])
        return json_response(to_json(status))

    @describes(UpdateStatus, problems={404: "no such update is known", 409: "it has ended already"})
    async def cancel(self, request: Request) -> Response:
        """End what the device has not heard of; tell the device to stop what it has."""
        status = await self._updates.cancel(request.path_params["update_id"])
        return json_response(to_json(status))
