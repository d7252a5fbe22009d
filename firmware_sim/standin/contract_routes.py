"""The routes that an appliance calls, with the failures that were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.contract.odoo import CONFIG_PATH, WEBHOOK_PATH
from firmware_sim.standin.bodies import json_body
from firmware_sim.standin.enrolment import Enrolment
from firmware_sim.standin.faults import Faults
from firmware_sim.standin.gateways import Gateways
from firmware_sim.standin.inbox import Inbox
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.registry import Registry

BUSY_RETRY_AFTER_S = 1


class ContractRoutes:
    """``/iiot/…`` for appliances that know an API key."""

    def __init__(
        self,
        *,
        registry: Registry,
        inbox: Inbox,
        faults: Faults,
        gateways: Gateways,
        enrolment: Enrolment,
        max_body_bytes: int = 4_000_000,
    ) -> None:
        self._registry = registry
        self._inbox = inbox
        self._faults = faults
        self._gateways = gateways
        self._enrolment = enrolment
        self._max_body_bytes = max_body_bytes
        self._busy: set[str] = set()
        self.requests: dict[str, int] = dict.fromkeys(
            ("config", "webhook", "sync", "enroll", "identity", "firmware"), 0
        )
        """Requests that came with the right key, since the start."""

    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route(CONFIG_PATH, self.guarded("config", self._config), methods=["POST"]),
            Route(WEBHOOK_PATH, self.guarded("webhook", self._batch), methods=["POST"]),
            Route(WEBHOOK_PATH + "/{device}", self.guarded("webhook", self._single), methods=["POST"]),
        ]

    def guarded(
        self,
        name: str,
        handle: Callable[[Request, bytes], Awaitable[Response]],
        *,
        keyless: bool = False,
        has_body: bool = True,
    ) -> Callable[[Request], Awaitable[Response]]:
        """Key, form and size first, then the failures that stop a request before it does anything.

        ``request.state.gateway`` is the gateway that the key was made for, if it was made for one.
        """

        async def endpoint(request: Request) -> Response:
            try:
                if self._faults.refused_for_s():
                    # reached only where no door can be closed: inside a test, without a socket
                    raise RefusalError(503, "unavailable", "closed on request")
                if not keyless:
                    request.state.gateway = self._key_owner(request)
                self.requests[name] += 1
                body = await self._body(request) if has_body else b""
                if self._faults.take("unavailable"):
                    raise RefusalError(503, "unavailable", "unavailable on request")
                return await handle(request, body)
            except RefusalError as refusal:
                return refusal.response()
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it

        return endpoint

    def _key_owner(self, request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        owner = self._enrolment.owner(key.strip()) if scheme.lower() == "bearer" else None
        if owner is None:
            raise RefusalError(401, "unauthorized", "API key missing or wrong", headers={"WWW-Authenticate": "Bearer"})
        return owner

    async def _body(self, request: Request) -> bytes:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise RefusalError(415, "unsupported_media_type", "send application/json")
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body_bytes:
                raise RefusalError(413, "too_large", f"at most {self._max_body_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    async def _config(self, request: Request, body: bytes) -> Response:
        await self.linger()
        return JSONResponse(self._registry.claim(body, gateway=request.state.gateway or None))

    async def _batch(self, request: Request, body: bytes) -> Response:
        batch = json_body(body)
        gateway = str(batch.get("gateway")) if isinstance(batch, dict) else ""
        if request.state.gateway not in ("", gateway):
            raise RefusalError(403, "wrong_gateway", "this key is another gateway's")
        if gateway in self._busy:
            raise RefusalError(
                429,
                "gateway_busy",
                "a batch of this gateway is being handled",
                headers={"Retry-After": str(BUSY_RETRY_AFTER_S)},
            )
        self._busy.add(gateway)
        try:
            await self.linger()
            if isinstance(batch, dict):
                self._gateways.check_batch(batch, len(body))
            results = self._inbox.accept_batch(batch)
        finally:
            self._busy.discard(gateway)
        self._fail_after_storing()
        return JSONResponse({"results": results, "work": self._gateways.has_work(gateway)})

    async def _single(self, request: Request, body: bytes) -> Response:
        await self.linger()
        result = self._inbox.accept_single(request.path_params["device"], json_body(body))
        self._fail_after_storing()
        return JSONResponse({"status": result["status"], "work": False})

    async def linger(self) -> None:
        """Wait, if that was asked for."""
        slow = self._faults.take("slow")
        if slow:
            await asyncio.sleep(slow.delay_s)

    def _fail_after_storing(self) -> None:
        if self._faults.take("error_after_storing"):
            raise RefusalError(500, "internal", "failed on request, after storing")
