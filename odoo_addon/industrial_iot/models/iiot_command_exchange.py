"""Commands between Odoo and its appliances: what is offered to them, and what they tell."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from odoo import api, models
from psycopg2.extras import Json

from ..lib import json_text
from ..lib.command_life import STATES, Life
from ..lib.ids import COMMAND_ID
from ..lib.message import Message
from ..lib.times import parse_rfc3339, rfc3339, usable_time
from .iiot_command import ANSWER_BYTES

_ANSWERS = ("ok", "error", "in_progress")
_LIFE_COLUMNS = (
    *("state", "reason", "detail", "concluded", "late", "deliveries", "sent_at", "delivered_at", "ended_at"),
    *("response", "response_at", "waiting", "history"),
)


class IiotCommand(models.Model):
    _inherit = "iiot.command"

    # --- what is offered -------------------------------------------------------------------------------------

    @api.model
    def _offer(self, gateway, limit: int) -> dict[str, Any]:
        """``commands``, ``cancel_commands`` and ``more`` of the answer to ``sync``.

        A command is offered until a report of it comes. Each device's are in their order; devices take turns, so that
        one whose commands cannot be taken now keeps no other waiting.
        """
        self.env["iiot.command"].flush_model()
        now = time.time()
        self._expire(gateway, now)
        cr = self.env.cr
        cr.execute(
            """
            SELECT c.id, c.command_id, d.device_id, c.action, c.payload, c.deadline, c.deliver, c.offered
              FROM (SELECT w.*, row_number() OVER (PARTITION BY w.device_id ORDER BY w.id) AS turn
                      FROM iiot_command w JOIN iiot_device g ON g.id = w.device_id
                     WHERE w.waiting AND g.gateway_id = %s) c
              JOIN iiot_device d ON d.id = c.device_id
             ORDER BY c.turn, c.id LIMIT %s
            """,
            (gateway.id, limit + 1),
        )
        rows = cr.fetchall()
        commands, taken, size = [], [], 0
        for row in rows[:limit]:
            _row_id, command_id, device, action, payload, deadline, deliver, _offered = row
            size += 2 * len((payload or "").encode()) + 512
            if size > ANSWER_BYTES and commands:
                break
            taken.append(row)
            commands.append(
                {
                    "command_id": command_id,
                    "device_id": device,
                    "action": action,
                    "payload": payload,
                    "expires_in_s": round(deadline - now, 3),
                    "deliver": deliver,
                }
            )
        new = [row[0] for row in taken if not row[-1]]
        cancels = self._offer_cancels(gateway, limit)
        if new:
            cr.execute("UPDATE iiot_command SET offered = true WHERE id IN %s", (tuple(new),))
        if cancels:
            cr.execute(
                "UPDATE iiot_command SET cancel_offered = true WHERE id IN %s", (tuple(row[0] for row in cancels),)
            )
        self.invalidate_model(["offered", "cancel_offered"])
        return {
            "commands": commands,
            "cancel_commands": [row[1] for row in cancels],
            # what was offered before and is offered again is no reason to ask at once
            "more": len(taken) < len(rows) and bool(new),
        }

    def _offer_cancels(self, gateway, limit: int) -> list[tuple[int, str]]:
        self.env.cr.execute(
            """
            SELECT c.id, c.command_id FROM iiot_command c JOIN iiot_device d ON d.id = c.device_id
             WHERE c.cancel_requested AND c.state = 'queued' AND d.gateway_id = %s ORDER BY c.id LIMIT %s
            """,
            (gateway.id, limit),
        )
        return self.env.cr.fetchall()

    def _wire_order(self) -> dict[str, Any]:
        """As in ``POST /api/v1/command/send``; as in an answer to ``sync``, so that a repeat is known as one."""
        self.ensure_one()
        return {
            "command_id": self.command_id,
            "device_id": self.device_id.device_id,
            "action": self.action,
            "payload": self.payload,
            "expires_in_s": max(0.001, round(self.deadline - time.time(), 3)),
            "deliver": self.deliver,
        }

    @api.model
    def _has_new(self, gateway) -> bool:
        """Whether there is something that was never offered to this gateway."""
        self.env["iiot.command"].flush_model(["waiting", "offered", "deadline", "cancel_requested", "cancel_offered"])
        self.env.cr.execute(
            """
            SELECT EXISTS (SELECT 1 FROM iiot_command c JOIN iiot_device d ON d.id = c.device_id
                            WHERE c.waiting AND NOT coalesce(c.offered, false) AND c.deadline > %s
                              AND d.gateway_id = %s)
                OR EXISTS (SELECT 1 FROM iiot_command c JOIN iiot_device d ON d.id = c.device_id
                            WHERE c.cancel_requested AND c.state = 'queued' AND NOT coalesce(c.cancel_offered, false)
                              AND d.gateway_id = %s)
            """,
            (time.time(), gateway.id, gateway.id),
        )
        return self.env.cr.fetchone()[0]

    def _expire(self, gateway, now: float):
        """What was not offered in time ends here; what was may be with the appliance, which will tell."""
        at = datetime.fromtimestamp(now, timezone.utc).replace(tzinfo=None)
        entry = Json([{"state": "expired", "at": rfc3339(at), "reason": "not_fetched", "by": "odoo"}])
        self.env.cr.execute(
            """
            UPDATE iiot_command c
               SET waiting = false,
                   state = CASE WHEN c.offered THEN c.state ELSE 'expired' END,
                   reason = CASE WHEN c.offered THEN c.reason ELSE 'not_fetched' END,
                   concluded = c.concluded OR NOT coalesce(c.offered, false),
                   ended_at = CASE WHEN c.offered THEN c.ended_at ELSE %s END,
                   history = CASE WHEN c.offered THEN c.history ELSE coalesce(c.history, '[]') || %s::jsonb END
              FROM iiot_device d
             WHERE d.id = c.device_id AND d.gateway_id = %s AND c.waiting AND c.deadline <= %s
            """,
            (at, entry, gateway.id, now),
        )
        if self.env.cr.rowcount:
            self.invalidate_model()
            expired = [("tell_user", "=", True), ("state", "=", "expired"), ("device_id.gateway_id", "=", gateway.id)]
            self.search(expired)._tell_end()

    # --- what appliances tell --------------------------------------------------------------------------------

    @api.model
    def _take_states(self, messages: list[Message]):
        """Messages of the kinds ``command_state`` and ``command_response``, in order.

        A command that somebody else sent through the appliance gets a row of its own. What makes no sense, or belongs
        to no command, is kept as a report of the device.
        """
        self.env["iiot.command"].flush_model()
        ids = {name for message in messages if (name := _command_id(message))}
        commands = self.search([("command_id", "in", list(ids))]) if ids else self.browse()
        known = {command.command_id: command for command in commands}
        lives = {name: command._life() for name, command in known.items()}
        strangers: dict[str, Message] = {}
        reports: list[tuple[Message, str]] = []
        for message in messages:
            name = _command_id(message)
            if name is None:
                reports.append((message, "no_command_id"))
                continue
            owner = known[name].device_id.id if name in known else strangers[name].device if name in strangers else None
            if owner not in (None, message.device):
                reports.append((message, "other_device"))
            elif message.kind == "command_state":
                if message.payload.get("state") not in STATES:
                    reports.append((message, "no_state"))
                    continue
                if owner is None:
                    strangers[name] = message
                    lives[name] = Life(state="queued")
                _report(lives[name], message)
            elif owner is None or message.payload.get("matched") is False:
                reports.append((message, "no_command"))
            elif message.payload.get("status") not in _ANSWERS:
                reports.append((message, "no_status"))
            else:
                lives[name].answer(message.payload["status"], message.effective_at, message.payload_json)
        self._store_lives([(known[name].id, lives[name]) for name in known])
        self._store_strangers([(message, lives[name]) for name, message in strangers.items()])
        if reports:
            self.env["iiot.device.report"]._keep(reports)

    def _store_lives(self, lives: list[tuple[int, Life]]):
        if not lives:
            return
        rows = [(row_id, *_columns(life)) for row_id, life in sorted(lives, key=lambda each: each[0])]
        self.env.cr.execute_values(
            f"UPDATE iiot_command c SET {', '.join(f'{name} = v.{name}' for name in _LIFE_COLUMNS)} "
            f"FROM (VALUES %s) AS v (id, {', '.join(_LIFE_COLUMNS)}) WHERE c.id = v.id",
            rows,
            template="(%s, %s, %s::varchar, %s::varchar, %s, %s, %s, %s::timestamp, %s::timestamp, %s::timestamp,"
            " %s::text, %s::timestamp, %s, %s::jsonb)",
            page_size=1000,
        )
        self.invalidate_model()
        self.search([("id", "in", [row[0] for row in rows]), ("tell_user", "=", True)])._tell_end()

    def _store_strangers(self, strangers: list[tuple[Message, Life]]):
        if not strangers:
            return
        devices = self.env["iiot.device"].browse([message.device for message, _life in strangers])
        self.create(
            [
                {
                    "command_id": message.payload["command_id"],
                    "device_id": device.id,
                    "company_id": device.company_id.id,
                    "origin": "appliance",
                    "action": "?",
                    "queued_at": message.effective_at,
                    **dict(zip(_LIFE_COLUMNS, _columns(life, plain=True), strict=True)),
                }
                for (message, life), device in zip(strangers, devices, strict=True)
            ]
        )


def _command_id(message: Message) -> str | None:
    name = message.payload.get("command_id") if isinstance(message.payload, dict) else None
    return name if isinstance(name, str) and COMMAND_ID.fullmatch(name) else None


def _report(life: Life, message: Message):
    payload: dict[str, Any] = message.payload
    try:
        at = usable_time(parse_rfc3339(payload.get("at")), message.received_at)
    except ValueError:
        at = message.effective_at
    delivery = payload.get("delivery")
    life.report(
        payload["state"],
        at,
        reason=_short(payload.get("reason"), 64),
        detail=_short(payload.get("detail"), 300),
        delivery=delivery if type(delivery) is int and 0 <= delivery < 1000 else None,
        late=payload.get("late") is True,
    )


def _short(value: Any, characters: int) -> str | None:
    return value[:characters].replace("\0", "") if isinstance(value, str) and value else None


def _columns(life: Life, *, plain: bool = False) -> tuple[Any, ...]:
    return (
        *(life.state, life.reason, life.detail, life.concluded, life.late, life.deliveries),
        *(life.sent_at, life.delivered_at, life.ended_at, life.response, life.response_at),
        not life.heard,
        life.history if plain else json_text.dumps(life.history),
    )
