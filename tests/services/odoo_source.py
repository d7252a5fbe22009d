"""A source of configurations that keeps Odoo's side of the pairing contract, with failures on request."""

from __future__ import annotations

import asyncio

from appliance.contract.device import ConfigRequest
from appliance.contract.odoo import DeviceConfig
from appliance.errors import OdooRefusedError


class OdooSource:
    """Claims a token once, for one (serial number, request id), and repeats the answer for these."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, DeviceConfig]] = {}
        self.claimed: dict[str, str] = {}
        self.calls: list[ConfigRequest] = []
        self.fail: Exception | None = None
        self.fail_after_claim: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0
        self.most_waiting = 0
        self.arrived = asyncio.Semaphore(0)

    def issue(self, token: str, serial: str, device_id: str, **config: object) -> None:
        """An operator makes a token for a device."""
        self.tokens[token] = (serial, DeviceConfig.model_validate({"device_id": device_id, **config}))

    async def fetch_config(self, request: ConfigRequest) -> DeviceConfig:
        """As the uplink does it."""
        self.calls.append(request)
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        self.arrived.release()
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        if self.fail is not None:
            raise self.fail
        assert request.token is not None
        assert request.request_id is not None
        serial, config = self.tokens.get(request.token, ("", None))
        if config is None:
            raise OdooRefusedError("no such token", status=403, code="invalid_token")
        if serial != request.serial:
            raise OdooRefusedError("no such serial number", status=403, code="unknown_serial")
        if self.claimed.setdefault(request.token, request.request_id) != request.request_id:
            raise OdooRefusedError("token used", status=410, code="token_used")
        if self.fail_after_claim is not None:
            raise self.fail_after_claim
        return config
