"""The routes of gateways: what an appliance calls beside its messages, and what people and tests do to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.contract.identity import IDENTITY_PATH, IdentityBody
from appliance.contract.sync import ENROLL_PATH, SYNC_PATH
from firmware_sim.standin.bodies import json_body, json_object, local_only
from firmware_sim.standin.commands import Commands
from firmware_sim.standin.contract_routes import ContractRoutes
from firmware_sim.standin.device_feed import DeviceFeed
from firmware_sim.standin.enrolment import Enrolment
from firmware_sim.standin.gateways import Gateways
from firmware_sim.standin.pending import PendingWork
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.snapshots import Snapshots


class GatewayRoutes:
    """``/iiot/gateway/…``, and ``/sim/…`` for gateways, changes of devices, and the database as a whole."""

    def __init__(
        self,
        *,
        gateways: Gateways,
        enrolment: Enrolment,
        feed: DeviceFeed,
        work: PendingWork,
        snapshots: Snapshots,
        commands: Commands,
        contract: ContractRoutes,
    ) -> None:
        self._gateways = gateways
        self._enrolment = enrolment
        self._feed = feed
        self._work = work
        self._snapshots = snapshots
        self._commands = commands
        self._contract = contract

    def routes(self) -> list[Route]:
        """For the application."""
        control: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/sim/gateways", self._list),
            ("PUT", "/sim/gateways", self._configure),
            ("POST", "/sim/gateways/{gateway}/fence", self._fence),
            ("POST", "/sim/codes", self._new_code),
            ("PATCH", "/sim/devices/{device}", self._change_device),
            ("DELETE", "/sim/devices/{device}/pairing", self._revoke_device),
            ("DELETE", "/sim/commands/{command}", self._cancel_command),
            ("PUT", "/sim/database", self._become_a_copy),
            ("PUT", "/sim/snapshots/{name}", self._take_snapshot),
            ("POST", "/sim/snapshots/{name}/restore", self._restore_snapshot),
        ]
        return [
            Route(SYNC_PATH, self._contract.guarded("sync", self._sync), methods=["POST"]),
            Route(ENROLL_PATH, self._contract.guarded("enroll", self._enroll, keyless=True), methods=["POST"]),
            Route(IDENTITY_PATH, self._contract.guarded("identity", self._keep_identity), methods=["PUT"]),
            *(Route(path, local_only(handle), methods=[method]) for method, path, handle in control),
        ]

    # --- for appliances --------------------------------------------------------------------------------------

    async def _sync(self, request: Request, body: bytes) -> Response:
        return JSONResponse(self._gateways.sync(json_body(body), key_of=request.state.gateway or None))

    async def _enroll(self, request: Request, body: bytes) -> Response:
        answer, told = self._enrolment.enroll(json_body(body))
        if told.api_url and told.api_key:
            await self._commands.use_appliance({"url": told.api_url, "api_key": told.api_key, "ca_pem": told.ca_pem})
        return JSONResponse(answer)

    async def _keep_identity(self, request: Request, body: bytes) -> Response:
        try:
            told = IdentityBody.model_validate(json_body(body))
        except ValidationError as error:
            raise RefusalError(422, "bad_request", str(error.errors()[0]["msg"])) from None
        if request.state.gateway not in ("", told.gateway):
            raise RefusalError(403, "wrong_gateway", "this key is another gateway's")
        self._gateways.check_copy(told.gateway, start=told.start, database_uuid=told.database_uuid)
        self._enrolment.keep_identity(told)
        return JSONResponse({"status": "ok"})

    # --- for people and tests --------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"gateways": self._gateways.all()})

    async def _configure(self, request: Request) -> Response:
        """What every answer to ``sync`` says: ``{"interval_s"?, "messages"?, "body_bytes"?}``; left out: nothing."""
        order = await json_object(request)
        self._gateways.interval_s = _positive(order, "interval_s")
        limits = {name: _positive(order, name) for name in ("messages", "body_bytes")}
        self._gateways.limits = {name: int(value) for name, value in limits.items() if value is not None}
        return Response(status_code=204)

    async def _fence(self, request: Request) -> Response:
        self._gateways.fence(request.path_params["gateway"])
        return Response(status_code=204)

    async def _new_code(self, request: Request) -> Response:
        """``{"valid_s"?, "gateway"?}``: the gateway's uid where it was enrolled before."""
        order = await json_object(request)
        return JSONResponse(self._enrolment.new_code(order.get("valid_s"), order.get("gateway")), 201)

    async def _change_device(self, request: Request) -> Response:
        self._feed.change(request.path_params["device"], await json_object(request))
        return Response(status_code=204)

    async def _revoke_device(self, request: Request) -> Response:
        self._feed.revoke(request.path_params["device"])
        return Response(status_code=204)

    async def _cancel_command(self, request: Request) -> Response:
        self._work.cancel_command(request.path_params["command"])
        return Response(status_code=204)

    async def _become_a_copy(self, request: Request) -> Response:
        """``{"uuid"?}``: another database identity from now on."""
        named = (await json_object(request)).get("uuid")
        if named is not None and not isinstance(named, str):
            raise RefusalError(422, "bad_request", "uuid must be a text")
        return JSONResponse(self._snapshots.become_a_copy(named))

    async def _take_snapshot(self, request: Request) -> Response:
        self._snapshots.take(request.path_params["name"])
        return Response(status_code=204)

    async def _restore_snapshot(self, request: Request) -> Response:
        self._snapshots.restore(request.path_params["name"])
        return Response(status_code=204)


def _positive(order: dict[str, Any], name: str) -> float | None:
    value = order.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise RefusalError(422, "bad_request", f"{name} must be a positive number")
    return float(value)
