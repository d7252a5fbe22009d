"""Commands as Odoo sends them: written down first, then handed to the appliance's API, then followed by its reports."""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections.abc import Mapping
from typing import Any

import httpx

from appliance.contract.times import Clock, rfc3339
from firmware_sim.standin.pending import waiting_command
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.state import State

SEND_PATH = "/api/v1/command/send"
ATTEMPTS = 4
LIST_LIMIT = 10_000
PASSED_ON = ("params", "payload", "expires_in_s", "deliver")


class Commands:
    """Sends through the appliance's API and keeps what came of it."""

    def __init__(self, *, state: State, clock: Clock | None = None) -> None:
        self._state = state
        self._clock = clock or Clock()
        self._client: httpx.AsyncClient | None = None
        self.first_pause_s = 0.25
        """Half the wait before the second attempt; it doubles each time."""

    async def use_appliance(self, order: Mapping[str, Any]) -> None:
        """Where the appliance's API is: ``{"url", "api_key", "ca_pem"?}``."""
        url, api_key, ca_pem = order.get("url"), order.get("api_key"), order.get("ca_pem")
        if not isinstance(url, str) or not isinstance(api_key, str) or not isinstance(ca_pem, (str, type(None))):
            raise RefusalError(422, "bad_request", "url and api_key must be texts, ca_pem may be one")
        try:
            trust = ssl.create_default_context(cadata=ca_pem) if ca_pem else True
            client = httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {api_key}"},
                verify=trust,
                timeout=10,
                # as Odoo does it: a connection per call
                limits=httpx.Limits(max_connections=20, max_keepalive_connections=0),
                trust_env=False,
            )
        except (ssl.SSLError, httpx.InvalidURL, ValueError) as error:
            raise RefusalError(422, "bad_request", f"cannot be used: {error}") from None
        await self.close()
        self._client = client

    async def close(self) -> None:
        """Drop the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def send(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Send ``{"device_id", "action", …}``; the same ``command_id`` again is sent again, which must be harmless.

        With ``"push": false`` it waits until an appliance fetches it, and so does one that could not be pushed.
        """
        device, action = order.get("device_id"), order.get("action")
        if not isinstance(device, str) or not isinstance(action, str):
            raise RefusalError(422, "bad_request", "device_id and action must be texts")
        push = order.get("push", True)
        if self._client is None and push:
            raise RefusalError(409, "no_appliance", "PUT /sim/appliance first, or do not push")
        command_id = str(order.get("command_id") or uuid.uuid4())
        body = {"command_id": command_id, "device_id": device, "action": action}
        body |= {name: order[name] for name in PASSED_ON if name in order}
        config = self._state.row("SELECT config FROM devices WHERE device_id = ?", device)
        now_ms = self._clock.now_ms()
        waiting = waiting_command(body, config=json.loads(config[0]) if config else {}, now_ms=now_ms)
        with self._state.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO commands "
                "(command_id, device, action, params, created_at_ms, state, history, waiting) "
                "VALUES (?, ?, ?, ?, ?, 'queued', '[]', ?)",
                (command_id, device, action, json.dumps(order.get("params", {})), now_ms, None if push else waiting),
            )
        if push:
            problem, final = await self.hand_over(SEND_PATH, body)
            self._note_push(command_id, problem, None if final else waiting)
        return self.one(command_id)

    def _note_push(self, command_id: str, problem: str | None, waiting: str | None) -> None:
        with self._state.transaction() as connection:
            connection.execute("UPDATE commands SET problem = ? WHERE command_id = ?", (problem, command_id))
            if problem is not None:
                connection.execute(
                    "UPDATE commands SET state = 'not_sent', waiting = ? WHERE command_id = ? AND state = 'queued'",
                    (waiting, command_id),
                )

    @property
    def knows_appliance(self) -> bool:
        """Whether there is an appliance to push to."""
        return self._client is not None

    async def hand_over(self, path: str, body: Mapping[str, Any]) -> tuple[str | None, bool]:
        """Why the appliance has not taken what was sent to it, or ``None``; and whether it never will."""
        problem = None
        for attempt in range(ATTEMPTS):
            if (client := self._client) is None:
                return "no appliance is known", False
            if attempt:
                await asyncio.sleep(self.first_pause_s * 2**attempt)
            try:
                response = await client.post(path, json=body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == 202:
                return None, True
            problem = f"{response.status_code}: {response.text[:300]}"
            if response.status_code < 500 and response.status_code != 429:
                return problem, True
        return problem, False

    def one(self, command_id: str) -> dict[str, Any]:
        """A command with its history; ``RefusalError`` 404."""
        found = self._some("WHERE command_id = ?", command_id)
        if not found:
            raise RefusalError(404, "unknown_command", "no such command")
        return found[0]

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """The newest commands, oldest of them last; 10,000 at most."""
        return self._some("ORDER BY created_at_ms DESC, command_id LIMIT ?", min(limit, LIST_LIMIT))

    def _some(self, tail: str, *values: Any) -> list[dict[str, Any]]:
        rows = self._state.rows(
            "SELECT command_id, device, action, params, created_at_ms, state, history, response, problem "  # noqa: S608
            f"FROM commands {tail}",
            *values,
        )
        return [
            {
                "command_id": row[0],
                "device_id": row[1],
                "action": row[2],
                "params": json.loads(row[3]) if row[3] else None,
                "created_at": rfc3339(row[4]),
                "state": row[5],
                "history": json.loads(row[6]),
                "response": json.loads(row[7]) if row[7] else None,
                "problem": row[8],
            }
            for row in rows
        ]

    def by_state(self) -> dict[str, int]:
        """How many commands stand where."""
        return dict(self._state.rows("SELECT state, count(*) FROM commands GROUP BY state"))
