"""How a device is connected, as its appliance tells it; unknown while the appliance is silent."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from odoo import _, api, fields, models
from odoo.tools import SQL

from ..lib.message import Message
from ..lib.times import AHEAD_TOLERANCE, parse_rfc3339
from .attention import ask, settle

SILENT_AFTER = timedelta(minutes=2)
"""An appliance asks every few seconds: after this nobody knows any more who is connected to it."""
CAUGHT_UP_AFTER = timedelta(minutes=1)
"""By then a gateway that speaks again has told what changed in between: that goes ahead of all readings."""
TEXT_CHARACTERS = 300
ACTIVITIES_AT_A_TIME = 200
INACTIVE_XMLID = "industrial_iot.activity_inactive"
CONTESTED = 5
"""Its place in what :func:`_presence` returns."""


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    @api.model
    def _take_presence(self, messages: list[Message]):
        """Messages of the kind ``presence``, in order: the newest of each device counts, the counters add up."""
        reports = [(message, "no_status") for message in messages if not _is_presence(message)]
        if reports:
            self.env["iiot.device.report"]._keep(reports)
        told: dict[int, list[Message]] = {}
        for message in messages:
            if _is_presence(message):
                told.setdefault(message.device, []).append(message)
        if not told:
            return
        self.env["iiot.device.state"].flush_model()
        self.env.cr.execute(
            "SELECT d.id, s.id, s.presence_at, s.is_contested FROM iiot_device d "
            "JOIN iiot_device_state s ON s.id = d.state_id WHERE d.id IN %s ORDER BY d.id",
            (tuple(told),),
        )
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        rows, begun, over = [], [], []
        for device_id, state_id, presence_at, was_contested in self.env.cr.fetchall():
            of_device = told[device_id]
            reconnects = sum(_count(message.payload.get("reconnects")) for message in of_device)
            takeovers = sum(_count(message.payload.get("takeovers")) for message in of_device)
            newest = of_device[-1]
            if presence_at and newest.effective_at < presence_at <= now + AHEAD_TOLERANCE:
                # old news, retried by hand; with a clock that ran ahead what came before counts for nothing
                rows.append((state_id, *([None] * 9), reconnects, takeovers))
                continue
            presence = _presence(newest)
            rows.append((state_id, *presence, reconnects, takeovers))
            if presence[CONTESTED] != bool(was_contested):
                (begun if presence[CONTESTED] else over).append(device_id)
        self.env.cr.execute_values(
            """
            UPDATE iiot_device_state s SET
                connection_status = coalesce(v.status, s.connection_status),
                reported_status = coalesce(v.status, s.reported_status),
                connection_since = CASE WHEN v.status IS NULL THEN s.connection_since ELSE v.since END,
                offline_code = CASE WHEN v.status IS NULL THEN s.offline_code ELSE v.code END,
                offline_reason = CASE WHEN v.status IS NULL THEN s.offline_reason ELSE v.reason END,
                address = CASE WHEN v.status IS NULL THEN s.address ELSE coalesce(v.address, s.address) END,
                is_contested = CASE WHEN v.status IS NULL THEN s.is_contested ELSE v.contested END,
                presence_at = coalesce(v.at, s.presence_at),
                last_seen = greatest(s.last_seen, v.seen),
                last_telemetry = greatest(s.last_telemetry, v.telemetry),
                reconnects = coalesce(s.reconnects, 0) + v.reconnects,
                takeovers = coalesce(s.takeovers, 0) + v.takeovers
            FROM (VALUES %s) AS v (id, status, since, code, reason, address, contested, at, seen, telemetry,
                                   reconnects, takeovers)
            WHERE s.id = v.id
            """,
            rows,
            template="(%s, %s::varchar, %s::timestamp, %s::varchar, %s::varchar, %s::varchar, %s::boolean,"
            " %s::timestamp, %s::timestamp, %s::timestamp, %s, %s)",
            page_size=1000,
        )
        self.env["iiot.device.state"].invalidate_model()
        self.invalidate_model(flush=False)
        ask(self.browse(begun), "contested", lambda device: device._contested_words())
        settle(self.browse(over), "contested")

    def _contested_words(self):
        return _("Two devices use this identity"), self._connection_words()[1]

    # --- while a gateway is silent ---------------------------------------------------------------------------

    @api.model
    def _cron_connection(self):
        """Of the devices of silent gateways nothing is known until these speak again."""
        since = fields.Datetime.now() - SILENT_AFTER
        domain = ["|", ("last_contact", "=", False), ("last_contact", "<", since)]
        silent = self.env["iiot.gateway"].with_context(active_test=False).search(domain)
        self._set_status(silent, SQL("'unknown'"), SQL("s.connection_status != 'unknown'"))

    @api.model
    def _note_gateway_heard(self, gateway):
        """The gateway speaks, and has told all it had to tell of connections: what it told counts again."""
        self._set_status(
            gateway,
            SQL("s.reported_status"),
            SQL("s.connection_status = 'unknown' AND s.reported_status != 'unknown'"),
        )

    def _set_status(self, gateways, value: SQL, condition: SQL):
        if not gateways:
            return
        self.env["iiot.device.state"].flush_model(["connection_status", "reported_status"])
        self.env.cr.execute(
            SQL(
                "UPDATE iiot_device_state s SET connection_status = %s FROM iiot_device d "
                "WHERE d.state_id = s.id AND d.gateway_id IN %s AND %s",
                value,
                tuple(gateways.ids),
                condition,
            )
        )
        if self.env.cr.rowcount:
            self.env["iiot.device.state"].invalidate_model()
            self.invalidate_model(flush=False)

    # --- inactivity ------------------------------------------------------------------------------------------

    @api.model
    def _cron_inactivity(self):
        """A device that says nothing for longer than its template allows gets an activity, once; then it ends again."""
        self.env["iiot.device.state"].flush_model()
        self.flush_model(["profile_id", "state", "state_id", "paired_at"])
        self.env.cr.execute(
            """
            SELECT d.id, coalesce(s.is_inactive, false),
                   d.state = 'active' AND p.inactivity_limit_min > 0
                   AND greatest(s.last_seen, s.last_telemetry, d.paired_at)
                       < (now() AT TIME ZONE 'UTC') - p.inactivity_limit_min * interval '1 minute' AS silent
              FROM iiot_device d
              JOIN iiot_device_state s ON s.id = d.state_id
              JOIN iiot_device_profile p ON p.id = d.profile_id
             WHERE d.state = 'active' AND p.inactivity_limit_min > 0 OR s.is_inactive
             ORDER BY d.id
            """
        )
        changed = [(device_id, silent) for device_id, was, silent in self.env.cr.fetchall() if was != bool(silent)]
        silent = self.browse([device_id for device_id, is_silent in changed if is_silent][:ACTIVITIES_AT_A_TIME])
        heard = self.browse([device_id for device_id, is_silent in changed if not is_silent])
        silent.state_id.write({"is_inactive": True})
        heard.state_id.write({"is_inactive": False})
        for device in silent:
            device.activity_schedule(
                INACTIVE_XMLID,
                summary=_("No data for %s minutes", device.profile_id.inactivity_limit_min),
                note=device.offline_reason or "",
                user_id=(device.gateway_id.user_id or self.env.user).id,
            )
        heard.activity_unlink([INACTIVE_XMLID])


class IiotGatewayReport(models.Model):
    _inherit = "iiot.gateway.report"

    contact_since = fields.Datetime(readonly=True, help="Start of uninterrupted contact.")


class IiotGateway(models.Model):
    _inherit = "iiot.gateway"

    def _note_report(self, asked, **values):
        now = fields.Datetime.now()
        if not self.last_contact or self.last_contact < now - SILENT_AFTER:
            self.report_id.contact_since = now
        noted = super()._note_report(asked, **values)
        # one that comes back may have to tell first who left while it was away
        if not self.waiting or not self.contact_since or self.contact_since <= now - CAUGHT_UP_AFTER:
            self.env["iiot.device"]._note_gateway_heard(self)
        return noted


def _is_presence(message: Message) -> bool:
    return isinstance(message.payload, dict) and message.payload.get("status") in ("online", "offline")


def _presence(message: Message) -> tuple[Any, ...]:
    payload = message.payload
    online = payload["status"] == "online"
    return (
        payload["status"],
        _time(payload.get("since"), message) or message.effective_at,
        None if online else _text(payload.get("reason_code")),
        None if online else _text(payload.get("reason")),
        _text(payload.get("address")),
        payload.get("contested") is True,
        message.effective_at,
        _time(payload.get("last_seen"), message),
        _time(payload.get("last_telemetry"), message),
    )


def _time(value: Any, message: Message) -> datetime | None:
    """A time of the message, unless it lies ahead of the message's arrival: then it is nobody's."""
    try:
        moment = parse_rfc3339(value)
    except ValueError:
        return None
    return moment if moment <= message.received_at + AHEAD_TOLERANCE else None


def _text(value: Any) -> str | None:
    return value[:TEXT_CHARACTERS].replace("\0", "") if isinstance(value, str) and value else None


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 1_000_000 else 0
