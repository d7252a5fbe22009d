"""Devices and their one-time tokens, as Odoo's people would make them, and the claim that pairs a device."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from appliance.contract.device import PayloadError, parse_config_request
from appliance.contract.odoo import DeviceConfig
from appliance.contract.times import Clock, rfc3339
from appliance.contract.topics import is_device_id, is_serial
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.state import State

TYPED_CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # no 0, 1, I and O: people type tokens
TOKEN_VALID_S = 3600.0
MAX_NEW_DEVICES = 10_000
CONFIG_FIELDS = frozenset(DeviceConfig.model_fields) - {"device_id", "config_version"}


def new_token() -> str:
    """A one-time token as the pairing label shows it, 60 bits."""
    return "-".join("".join(secrets.choice(TYPED_CHARACTERS) for _ in range(4)) for _ in range(3))


class Registry:
    """All devices of this Odoo."""

    def __init__(self, *, state: State, clock: Clock | None = None) -> None:
        self._state = state
        self._clock = clock or Clock()

    def create(self, order: Mapping[str, Any]) -> list[dict[str, str]]:
        """Make devices, each with a fresh token: ``{"count"?, "prefix"?}`` or ``{"device_id", "serial"?}``.

        Further members (``settings``, ``topics``, ``command_template``, ``mqtt``, …) go into their configuration;
        ``token_valid_s`` limits the token. ``RefusalError``: bad names (422), or a device that exists (409).
        """
        count = order.get("count", 1)
        if not isinstance(count, int) or not 0 < count <= MAX_NEW_DEVICES:
            raise RefusalError(422, "bad_request", f"count must be a number from 1 to {MAX_NEW_DEVICES}")
        config = {name: order[name] for name in CONFIG_FIELDS if name in order}
        if "device_id" in order:
            if count != 1:
                raise RefusalError(422, "bad_request", "device_id names a single device: no count with it")
            names = [(str(order["device_id"]), str(order.get("serial") or f"SN-{order['device_id']}"))]
        else:
            prefix = str(order.get("prefix", "device"))
            names = [(f"{prefix}-{number:03d}", f"SN-{prefix}-{number:03d}") for number in range(1, count + 1)]
        with self._state.transaction() as connection:
            for device_id, serial in names:
                if not is_device_id(device_id) or not is_serial(serial):
                    raise RefusalError(422, "bad_request", "device id or serial number is not allowed by the contract")
                self._checked(device_id, config)
                inserted = connection.execute(
                    "INSERT OR IGNORE INTO devices (device_id, serial, config) VALUES (?, ?, ?)",
                    (device_id, serial, json.dumps(config)),
                )
                if not inserted.rowcount:
                    raise RefusalError(409, "exists", f"{device_id} or its serial number exists")
            return [
                {"device_id": device_id, "serial": serial, "token": self._add_token(serial, order)}
                for device_id, serial in names
            ]

    def add_token(self, device_id: str, order: Mapping[str, Any]) -> dict[str, str]:
        """A further token for a device, ``{"token_valid_s"?}``; older ones stay as they are."""
        serial = self._serial(device_id)
        with self._state.transaction():
            return {"device_id": device_id, "serial": serial, "token": self._add_token(serial, order)}

    def claim(self, body: bytes, *, gateway: str | None = None) -> dict[str, Any]:
        """Answer ``POST /iiot/config``: the device's configuration for a valid token, once; then it is ``gateway``'s.

        The same serial, token and request id get the same answer again. A claim without request id may be repeated
        until the device has been heard of.
        """
        try:
            request = parse_config_request(body)
        except PayloadError as error:
            raise RefusalError(422, "bad_request", error.message) from None
        if request.token is None:
            raise RefusalError(422, "bad_request", "token is missing")
        with self._state.transaction() as connection:
            token = self._state.row(
                "SELECT expires_at_ms, claimed, request_id FROM tokens WHERE token = ? AND serial = ?",
                request.token,
                request.serial,
            )
            device = self._state.row(
                "SELECT device_id, enabled, config, seen, secret_version FROM devices WHERE serial = ?", request.serial
            )
            if token is None or device is None:
                raise RefusalError(403, "invalid_token", "serial number or token is wrong")
            expires_at_ms, claimed, request_id = token
            device_id, enabled, config, seen, secret_version = device
            if not enabled:
                raise RefusalError(403, "device_disabled", "the device is switched off")
            if claimed:
                if request_id != request.request_id or (request_id is None and seen):
                    raise RefusalError(410, "token_used", "this token has been used")
            elif self._clock.now_ms() >= expires_at_ms:
                raise RefusalError(410, "token_expired", "this token has expired")
            else:
                now_ms = self._clock.now_ms()
                connection.execute(
                    "UPDATE tokens SET claimed = 1, request_id = ? WHERE token = ?", (request.request_id, request.token)
                )
                connection.execute(
                    "UPDATE devices SET paired_at_ms = ?, seen = 0, revoked = 0, gateway = ? WHERE device_id = ?",
                    (now_ms, gateway, device_id),
                )
        # the pairing fulfils every wish for a new secret up to here
        config = json.loads(config) | {"secret_version": secret_version}
        return self._checked(device_id, config).model_dump(mode="json")

    def all(self) -> list[dict[str, Any]]:
        """Every device with what has arrived from it."""
        counts: dict[str, dict[str, int]] = {}
        for device_id, kind, messages in self._state.rows("SELECT device, kind, messages FROM counts"):
            counts.setdefault(device_id, {})[kind] = messages
        rows = self._state.rows(
            "SELECT device_id, serial, enabled, paired_at_ms, at_ms, payload FROM devices "
            "LEFT JOIN latest ON latest.device = device_id ORDER BY device_id"
        )
        return [
            {
                "device_id": device_id,
                "serial": serial,
                "enabled": bool(enabled),
                "paired": paired_at_ms is not None,
                "messages": counts.get(device_id, {}),
                "latest": None if at_ms is None else {"at": rfc3339(at_ms), "payload": json.loads(payload)},
            }
            for device_id, serial, enabled, paired_at_ms, at_ms, payload in rows
        ]

    def _serial(self, device_id: str) -> str:
        row = self._state.row("SELECT serial FROM devices WHERE device_id = ?", device_id)
        if row is None:
            raise RefusalError(404, "unknown_device", "no such device")
        return str(row[0])

    def _add_token(self, serial: str, order: Mapping[str, Any]) -> str:
        valid_s = order.get("token_valid_s", TOKEN_VALID_S)
        if isinstance(valid_s, bool) or not isinstance(valid_s, (int, float)):
            raise RefusalError(422, "bad_request", "token_valid_s must be a number")
        token = new_token()
        expires_at_ms = self._clock.now_ms() + round(valid_s * 1000)
        self._state.connection.execute(
            "INSERT INTO tokens (token, serial, expires_at_ms) VALUES (?, ?, ?)", (token, serial, expires_at_ms)
        )
        return token

    def _checked(self, device_id: str, config: Mapping[str, Any]) -> DeviceConfig:
        try:
            return DeviceConfig.model_validate({**config, "device_id": device_id})
        except ValidationError as error:
            raise RefusalError(422, "bad_request", f"configuration: {error.errors()[0]['msg']}") from None
