"""Work that waits until an appliance fetches it: commands and updates that were not pushed, and commands to take back.

An item is offered with every sync until a message about it has arrived.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from appliance.contract.odoo import DEFAULT_COMMAND_EXPIRY_S
from appliance.contract.times import Clock, rfc3339
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.state import State

AT_A_TIME = 100
UPDATE_ACTIONS = ("start_update", "cancel_update", "rollback")
_OF_GATEWAY = "(SELECT device_id FROM devices WHERE gateway IS NULL OR gateway = ?)"


class PendingWork:
    """What is offered to gateways in their syncs."""

    def __init__(self, *, state: State, clock: Clock | None = None) -> None:
        self._state = state
        self._clock = clock or Clock()
        self.at_a_time = AT_A_TIME

    # --- what people order -----------------------------------------------------------------------------------

    def cancel_command(self, command_id: str) -> None:
        """Take a command back, as far as that is possible: one that no appliance has seen ends here."""
        with self._state.transaction() as connection:
            row = self._state.row("SELECT offered, waiting IS NOT NULL FROM commands WHERE command_id = ?", command_id)
            if row is None:
                raise RefusalError(404, "unknown_command", "no such command")
            if row == (0, 1):
                connection.execute(
                    "UPDATE commands SET state = 'cancelled', waiting = NULL WHERE command_id = ?", (command_id,)
                )
            else:
                connection.execute("UPDATE commands SET cancel = 1 WHERE command_id = ?", (command_id,))

    def order_update(self, order: Mapping[str, Any], *, waits: bool = True) -> dict[str, Any]:
        """``{"device_id", "action", "params"?, "update_id"?}``; the same id again orders the same update anew.

        ``waits``: for the next ``sync``.
        """
        device, action, params = order.get("device_id"), order.get("action", UPDATE_ACTIONS[0]), order.get("params", {})
        if not isinstance(device, str) or action not in UPDATE_ACTIONS or not isinstance(params, dict):
            raise RefusalError(422, "bad_request", f"needs device_id, params, and an action of {UPDATE_ACTIONS}")
        update_id = str(order.get("update_id") or uuid.uuid4())
        with self._state.transaction() as connection:
            connection.execute(
                "INSERT INTO updates (update_id, device, action, params, created_at_ms, state, history, waiting) "
                "VALUES (?, ?, ?, ?, ?, 'queued', '[]', ?) ON CONFLICT (update_id) DO UPDATE SET "
                "action = excluded.action, params = excluded.params, waiting = excluded.waiting, offered = 0",
                (update_id, device, action, json.dumps(params), self._clock.now_ms(), int(waits)),
            )
        return self.update(update_id)

    def note_push(self, update_id: str, problem: str | None, *, waits: bool) -> None:
        """What came of pushing an update; ``waits``: the next ``sync`` is to bring it."""
        with self._state.transaction() as connection:
            connection.execute("UPDATE updates SET problem = ? WHERE update_id = ?", (problem, update_id))
            if problem is not None:
                connection.execute(
                    "UPDATE updates SET state = 'not_sent', waiting = ? WHERE update_id = ? AND state = 'queued'",
                    (int(waits), update_id),
                )

    def update(self, update_id: str) -> dict[str, Any]:
        """One update with its history; ``RefusalError`` 404."""
        found = [update for update in self.updates() if update["update_id"] == update_id]
        if not found:
            raise RefusalError(404, "unknown_update", "no such update")
        return found[0]

    def updates(self) -> list[dict[str, Any]]:
        """The newest 1,000 updates."""
        rows = self._state.rows(
            "SELECT update_id, device, action, params, created_at_ms, state, history, waiting, problem FROM updates "
            "ORDER BY rowid DESC LIMIT 1000"
        )
        return [
            {
                "update_id": row[0],
                "device_id": row[1],
                "action": row[2],
                "params": json.loads(row[3]),
                "created_at": rfc3339(row[4]),
                "state": row[5],
                "history": json.loads(row[6]),
                "waiting": bool(row[7]),
                "problem": row[8],
            }
            for row in rows
        ]

    # --- what gateways fetch ---------------------------------------------------------------------------------

    def offer(self, gateway: str) -> dict[str, Any]:
        """``commands``, ``cancel_commands``, ``updates`` and ``more`` of the answer to ``sync``."""
        self._expire()
        commands = self._state.rows(
            "SELECT command_id, waiting FROM commands WHERE waiting IS NOT NULL AND device IN "  # noqa: S608 a constant
            f"{_OF_GATEWAY} ORDER BY rowid LIMIT ?",
            *(gateway, self.at_a_time),
        )
        cancels = self._state.rows(
            "SELECT command_id FROM commands WHERE cancel AND state IN ('queued', 'not_sent') AND device IN "  # noqa: S608
            f"{_OF_GATEWAY} ORDER BY rowid LIMIT ?",
            *(gateway, self.at_a_time),
        )
        updates = self._state.rows(
            "SELECT update_id, device, action, params FROM updates WHERE waiting AND device IN "  # noqa: S608 a constant
            f"{_OF_GATEWAY} ORDER BY rowid LIMIT ?",
            *(gateway, self.at_a_time),
        )
        with self._state.transaction() as connection:
            connection.executemany(
                "UPDATE commands SET offered = 1 WHERE command_id = ?", [row[:1] for row in commands]
            )
            connection.executemany("UPDATE updates SET offered = 1 WHERE update_id = ?", [row[:1] for row in updates])
        return {
            "commands": [self._command(waiting) for _, waiting in commands],
            "cancel_commands": [row[0] for row in cancels],
            "updates": [
                {"update_id": row[0], "device_id": row[1], "action": row[2], "params": json.loads(row[3])}
                for row in updates
            ],
            "more": len(commands) == self.at_a_time or len(updates) == self.at_a_time,
        }

    def has_new(self, gateway: str) -> bool:
        """Whether anything waits that was never offered."""
        return any(
            self._state.row(f"SELECT 1 FROM {table} WHERE {test} AND device IN {_OF_GATEWAY} LIMIT 1", gateway)  # noqa: S608
            for table, test in (
                ("commands", "waiting IS NOT NULL AND NOT offered"),
                ("commands", "cancel AND state IN ('queued', 'not_sent')"),
                ("updates", "waiting AND NOT offered"),
            )
        )

    def _command(self, waiting: str) -> dict[str, Any]:
        """Seconds count from now."""
        command: dict[str, Any] = json.loads(waiting)
        command["expires_in_s"] = (command.pop("expires_at_ms") - self._clock.now_ms()) / 1000
        return command

    def _expire(self) -> None:
        """A command that no appliance fetched in time ends here."""
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE commands SET waiting = NULL, state = CASE offered WHEN 0 THEN 'expired' ELSE state END "
                "WHERE waiting IS NOT NULL AND json_extract(waiting, '$.expires_at_ms') <= ?",
                (self._clock.now_ms(),),
            )


def waiting_command(body: Mapping[str, Any], *, config: Mapping[str, Any], now_ms: int) -> str:
    """What is kept of a command until an appliance has it: the order, and when it is too late."""
    default_s = config.get("command_expires_in_s") or DEFAULT_COMMAND_EXPIRY_S
    expires_in_s = body.get("expires_in_s") or default_s
    if isinstance(expires_in_s, bool) or not isinstance(expires_in_s, (int, float)) or not 0 < expires_in_s < 1e9:
        raise RefusalError(422, "bad_request", "expires_in_s must be a positive number")
    return json.dumps({**body, "expires_at_ms": now_ms + round(expires_in_s * 1000)})
