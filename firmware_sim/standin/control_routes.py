"""The routes under ``/sim/``: what people and tests do to this Odoo. They answer to this machine only."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from firmware_sim.standin.bodies import json_object, local_only
from firmware_sim.standin.commands import Commands
from firmware_sim.standin.faults import Faults
from firmware_sim.standin.inbox import Inbox
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.registry import Registry
from firmware_sim.standin.state import State

EFFECTS_PER_READ = 2000


class ControlRoutes:
    """New devices and tokens, what arrived, failures, commands."""

    def __init__(
        self,
        *,
        state: State,
        registry: Registry,
        inbox: Inbox,
        faults: Faults,
        commands: Commands,
        requests: dict[str, int],
    ) -> None:
        self._state = state
        self._registry = registry
        self._inbox = inbox
        self._faults = faults
        self._commands = commands
        self._requests = requests

    def routes(self) -> list[Route]:
        """For the application."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/sim/state", self._overview),
            ("GET", "/sim/effects", self._effects),
            ("GET", "/sim/devices", self._list_devices),
            ("POST", "/sim/devices", self._create_devices),
            ("POST", "/sim/devices/{device}/tokens", self._add_token),
            ("PUT", "/sim/appliance", self._use_appliance),
            ("GET", "/sim/commands", self._list_commands),
            ("POST", "/sim/commands", self._send_command),
            ("GET", "/sim/commands/{command}", self._one_command),
            ("GET", "/sim/faults", self._list_faults),
            ("POST", "/sim/faults", self._add_fault),
            ("DELETE", "/sim/faults", self._clear_faults),
        ]
        return [Route(path, local_only(handle), methods=[method]) for method, path, handle in table]

    async def _overview(self, request: Request) -> Response:
        messages = self._state.rows("SELECT kind, sum(messages) FROM counts GROUP BY kind")
        devices = self._state.row("SELECT count(*), count(paired_at_ms) FROM devices") or (0, 0)
        return JSONResponse(
            {
                "database": self._state.meta("database_uuid"),
                "devices": devices[0],
                "paired": devices[1],
                "messages": dict(messages),
                "pruned": self._state.meta("pruned") == "1",
                "answers": dict(self._inbox.answers),
                "requests": self._requests,
                "commands": self._commands.by_state(),
                "faults": self._faults.in_force(),
            }
        )

    async def _effects(self, request: Request) -> Response:
        """What took effect, a JSON object per line, oldest first: ``?kind=&device=&after=`` (an id), ``payload=1``."""
        kind, device = request.query_params.get("kind"), request.query_params.get("device")
        with_payload = request.query_params.get("payload") == "1"
        after = _number(request, "after", 0)

        async def lines() -> AsyncIterator[bytes]:
            position = after
            while True:
                rows = self._state.rows(
                    "SELECT id, device, kind, msg_id, seq, at, received_at, lane, payload FROM effects WHERE id > ?1 "
                    "AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR device = ?3) ORDER BY id LIMIT ?4",
                    position,
                    kind,
                    device,
                    EFFECTS_PER_READ,
                )
                if not rows:
                    return
                position = rows[-1][0]
                yield b"".join(_line(row, with_payload) for row in rows)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def _list_devices(self, request: Request) -> Response:
        return JSONResponse({"devices": self._registry.all()})

    async def _create_devices(self, request: Request) -> Response:
        return JSONResponse({"devices": self._registry.create(await json_object(request))}, 201)

    async def _add_token(self, request: Request) -> Response:
        return JSONResponse(self._registry.add_token(request.path_params["device"], await json_object(request)), 201)

    async def _use_appliance(self, request: Request) -> Response:
        await self._commands.use_appliance(await json_object(request))
        return Response(status_code=204)

    async def _list_commands(self, request: Request) -> Response:
        return JSONResponse({"commands": self._commands.newest(_number(request, "limit", 1000))})

    async def _send_command(self, request: Request) -> Response:
        return JSONResponse(await self._commands.send(await json_object(request)), 201)

    async def _one_command(self, request: Request) -> Response:
        return JSONResponse(self._commands.one(request.path_params["command"]))

    async def _list_faults(self, request: Request) -> Response:
        return JSONResponse({"faults": self._faults.in_force()})

    async def _add_fault(self, request: Request) -> Response:
        return JSONResponse(self._faults.add(await json_object(request)), 201)

    async def _clear_faults(self, request: Request) -> Response:
        self._faults.clear(request.query_params.get("kind"))
        return Response(status_code=204)


def _line(row: tuple[Any, ...], with_payload: bool) -> bytes:
    identity, device, kind, msg_id, seq, at, received_at, lane, payload = row
    value = {"id": identity, "device": device, "kind": kind, "msg_id": msg_id, "seq": seq, "at": at}
    value |= {"received_at": received_at, "lane": lane}
    if with_payload:
        value["payload"] = json.loads(payload)
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise RefusalError(422, "bad_request", f"{name} must be a number")
    return int(text)
