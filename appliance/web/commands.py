"""Commands: accept one, tell how far it is, take it back."""

from __future__ import annotations

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.command import CommandStatus, SendCommand
from appliance.web.answers import CommandAccepted
from appliance.web.bodies import json_response, parse, read_json
from appliance.web.routes import describes
from appliance.web.services import Commands


class CommandRoutes:
    """``/api/v1/command/…``."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    @describes(
        CommandAccepted,
        status=202,
        body=SendCommand,
        problems={
            404: "no such device is paired here",
            409: "the device is disabled, or the id was given to another command",
            422: "the command cannot be rendered or is too large",
            429: "too many commands wait for the device",
        },
    )
    async def send(self, request: Request) -> Response:
        """202 as soon as the command is on disk; the same ``command_id`` again gets the first result."""
        status = await self._commands.send(parse(SendCommand, await read_json(request)))
        return json_response(to_json({"command_id": status.command_id, "state": status.state}), 202)

    @describes(CommandStatus, problems={404: "no such command is known"})
    async def status(self, request: Request) -> Response:
        """State and history."""
        status = await self._commands.status(request.path_params["command_id"])
        return json_response(to_json(status))

    @describes(CommandStatus, problems={404: "no such command is known", 409: "it was sent already"})
    async def cancel(self, request: Request) -> Response:
        """Take back what has not been sent."""
        status = await self._commands.cancel(request.path_params["command_id"])
        return json_response(to_json(status))
