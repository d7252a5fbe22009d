"""What people change of devices in Odoo, and how appliances learn of it: a list of changes, read by a cursor.

A cursor names a change by its number and by a tag drawn by chance, so that one from before a restore is told from
those that got the same number later. One that is not known (any more) starts again with all devices.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from appliance.contract.odoo import DeviceConfig
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.registry import CONFIG_FIELDS
from firmware_sim.standin.state import State

AT_A_TIME = 200
CHANGES_KEPT = 100_000
_ALL = "all"
_DEVICE = (
    "SELECT device_id, serial, enabled, secret_version, config, revoked FROM devices "
    "WHERE (paired_at_ms IS NOT NULL OR revoked) AND (gateway IS NULL OR gateway = ?) "
)


class DeviceFeed:
    """Changes devices, and tells a gateway what it has not heard of."""

    def __init__(self, *, state: State) -> None:
        self._state = state
        self.at_a_time = AT_A_TIME

    def change(self, device_id: str, order: Mapping[str, Any]) -> None:
        """``enabled``, ``rotate`` (a new secret), and members of its configuration; the others stay as they are."""
        enabled, rotate = order.get("enabled"), order.get("rotate", False)
        config = {name: order[name] for name in CONFIG_FIELDS if name in order}
        if not isinstance(rotate, bool) or not isinstance(enabled, (bool, type(None))):
            raise RefusalError(422, "bad_request", "enabled and rotate must be true or false")
        if enabled is None and not rotate and not config:
            raise RefusalError(422, "bad_request", "there is nothing to change")
        with self._state.transaction() as connection:
            before = json.loads(self._row(device_id)[0])
            if config:
                config = before | config | {"config_version": before.get("config_version", 1) + 1}
            new = _checked(device_id, config or before)
            connection.execute(
                "UPDATE devices SET enabled = coalesce(?, enabled), secret_version = secret_version + ?, config = ? "
                "WHERE device_id = ?",
                (None if enabled is None else int(enabled), int(rotate), json.dumps(new), device_id),
            )
            self._note(device_id)

    def revoke(self, device_id: str) -> None:
        """The device loses its pairing; a new token pairs it again."""
        with self._state.transaction() as connection:
            self._row(device_id)
            connection.execute("UPDATE devices SET paired_at_ms = NULL, revoked = 1 WHERE device_id = ?", (device_id,))
            self._note(device_id)

    def since(self, gateway: str, cursor: str | None) -> dict[str, Any]:
        """``devices``, ``revoked``, ``cursor`` and ``more`` of the answer to ``sync``."""
        number, tag = self._newest()
        if cursor is not None and cursor == f"{number}-{tag}":
            return {"devices": [], "revoked": [], "cursor": cursor, "more": False}
        at, after = self._read(cursor)
        if at is None:
            rows = self._state.rows(
                _DEVICE + "AND device_id > ? ORDER BY device_id LIMIT ?", gateway, after, self.at_a_time
            )
            more = len(rows) == self.at_a_time
            # changes made while this goes on must come afterwards
            began = cursor.split("/")[2] if cursor is not None and after else f"{number}-{tag}"
            following = f"{_ALL}/{rows[-1][0]}/{began}" if more else began
            more = more or self.has_news(began)
        else:
            changed = self._state.rows(
                "SELECT max(number), tag, device FROM changes WHERE number > ? GROUP BY device ORDER BY 1 LIMIT ?",
                *(at, self.at_a_time),
            )
            more = len(changed) == self.at_a_time
            following = f"{changed[-1][0]}-{changed[-1][1]}" if changed else str(cursor)
            rows = [
                row
                for _, _, device in changed
                for row in self._state.rows(_DEVICE + "AND device_id = ?", gateway, device)
            ]
        return {
            "devices": [
                {
                    "device_id": device_id,
                    "serial": serial,
                    "enabled": bool(enabled),
                    "secret_version": secret_version,
                    "config": _checked(device_id, json.loads(config)),
                }
                for device_id, serial, enabled, secret_version, config, revoked in rows
                if not revoked
            ],
            "revoked": [row[0] for row in rows if row[5]],
            "cursor": following,
            "more": more,
        }

    def has_news(self, cursor: str | None) -> bool:
        """Whether there were changes behind a cursor."""
        number, tag = self._newest()
        return number > 0 and cursor != f"{number}-{tag}"

    def _newest(self) -> tuple[int, str]:
        row = self._state.row("SELECT number, tag FROM changes ORDER BY number DESC LIMIT 1")
        return (row[0], row[1]) if row else (0, "")

    def _read(self, cursor: str | None) -> tuple[int | None, str]:
        """The number behind which to go on, or ``None`` and the device behind which to go on with all of them."""
        if cursor is None:
            return None, ""
        if cursor.startswith(_ALL + "/") and cursor.count("/") == 2:
            return None, cursor.split("/")[1]
        number, _, tag = cursor.partition("-")
        known = number.isascii() and number.isdecimal() and len(number) < 16
        if known and (
            cursor == "0-" or self._state.row("SELECT 1 FROM changes WHERE number = ? AND tag = ?", int(number), tag)
        ):
            return int(number), ""
        return None, ""

    def _note(self, device_id: str) -> None:
        connection = self._state.connection
        connection.execute("INSERT INTO changes (tag, device) VALUES (?, ?)", (secrets.token_hex(4), device_id))
        connection.execute("DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?", (CHANGES_KEPT,))

    def _row(self, device_id: str) -> tuple[Any, ...]:
        row = self._state.row("SELECT config FROM devices WHERE device_id = ?", device_id)
        if row is None:
            raise RefusalError(404, "unknown_device", "no such device")
        return row


def _checked(device_id: str, config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return DeviceConfig.model_validate({**config, "device_id": device_id}).model_dump(mode="json")
    except ValidationError as error:
        raise RefusalError(422, "bad_request", f"configuration: {error.errors()[0]['msg']}") from None
