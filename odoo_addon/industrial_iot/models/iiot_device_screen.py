"""What the device's form says in words, and what it shows while it is open."""

from __future__ import annotations

from calendar import timegm
from datetime import timedelta
from typing import Any

from odoo import _, api, fields, models

from ..lib.reading_text import shown_values
from .iiot_device_presence import SILENT_AFTER
from .rights import readable
from .told import told

RANGES_H = (1, 24, 168)
POINTS = 240
"""Of a chart: more than that no screen shows."""
NAMES_SHOWN = 3


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    connection_text = fields.Char(
        "Connection", compute="_compute_connection_text", help="How the device is connected, and since when."
    )
    connection_advice = fields.Char("What To Do", compute="_compute_connection_text")
    business_name = fields.Char("Name of the Business Record", compute="_compute_business_name")

    @api.depends("state", "connection_status", "connection_since", "offline_code", "gateway_id", "is_contested")
    def _compute_connection_text(self):
        for device in self:
            device.connection_text, device.connection_advice = device._connection_words()

    @api.depends("business_ref")
    def _compute_business_name(self):
        linked: dict[str, set[int]] = {}
        for device in self:
            device.business_name = False
            if device.business_ref:
                linked.setdefault(device.business_ref._name, set()).add(device.business_ref.id)
        # together, and only of those that the reader may read: names of all others stay hidden
        names = {}
        for model, ids in linked.items():
            records = readable(self.env[model].browse(sorted(ids)).exists())
            names.update({(model, record.id): record.display_name for record in records})
        for device in self:
            if device.business_ref:
                device.business_name = names.get((device.business_ref._name, device.business_ref.id))

    def _connection_words(self) -> tuple[str, str]:
        """One sentence on the connection, and one on what to do about it (empty where there is nothing to do)."""
        self.ensure_one()
        wording = self.env["iiot.wording"]
        span = wording._since(self.connection_since)
        if self.state == "retired":
            return _("Out of service"), ""
        if self.state == "disabled":
            return _("Switched off in Odoo"), _("Enable it, and it may connect again.")
        if self.state == "draft" or (self.state == "active" and not self.gateway_id):
            return _("Not paired yet"), _(
                "Generate a token, and enter it on the device together with its serial number."
            )
        if self.state == "provisioned" and not self.paired_at:
            return (
                _("Waiting for the device to use its token"),
                _("Enter serial number and token on the device. It must be in the same network as the gateway."),
            )
        if self.connection_status == "online":
            text = _("Online for %s", span) if span else _("Online")
            if self.is_contested:
                return text, _(
                    "Two devices seem to use the same credentials and push each other out. Look for a copy of this "
                    "device; if there is one, revoke the pairing and pair it again."
                )
            return text, ""
        if self.connection_status == "offline":
            reason, advice = self._offline_words()
            text = _("Offline for %(span)s: %(reason)s", span=span, reason=reason) if span else reason
            return text, advice
        return self._unknown_words()

    def _unknown_words(self) -> tuple[str, str]:
        gateway = self.gateway_id
        if not gateway.is_enabled:
            return _("Unknown: its gateway is switched off in Odoo"), _("Switch the gateway %s on.", gateway.name)
        if not gateway.last_contact:
            return (
                _("Unknown: its gateway has never been in contact"),
                _("Open the gateway %s and enrol it.", gateway.name),
            )
        if gateway.last_contact < fields.Datetime.now() - SILENT_AFTER:
            return (
                _("Unknown: no contact with its gateway for %s", self.env["iiot.wording"]._since(gateway.last_contact)),
                _(
                    "Check the power and network of the gateway %s. Readings it receives meanwhile are kept there.",
                    gateway.name,
                ),
            )
        return _("Paired, not connected yet"), _("Check the power and network of the device.")

    def _offline_words(self) -> tuple[str, str]:
        """Why the device is offline by the code of its gateway, and what helps."""
        power = _("Check the power of the device, its network cable or Wi-Fi, and whether it hangs.")
        words = {
            "closed_by_device": (
                _("it disconnected by itself"),
                _("Often it was switched off on purpose, or it sleeps between readings. Look at the machine."),
            ),
            "connection_lost": (_("the connection was lost"), power),
            "keep_alive": (_("it stopped answering (keep-alive timed out)"), power),
            "too_slow": (
                _("it did not accept what was sent to it"),
                _("Its network may be weak, or it is overloaded. Restart it if it does not come back."),
            ),
            "taken_over": (
                _("another device signed in under its name"),
                _("Look for a copy of this device. If there is one, revoke the pairing and pair it again."),
            ),
            "protocol_error": (
                _("it sent something that is not allowed"),
                _("This is a fault of its firmware: show its manufacturer the gateway's message below."),
            ),
            "not_stored": (
                _("the gateway could not store one of its messages"),
                _("The gateway's disk may be full: open the gateway and look at its problems."),
            ),
            "revoked": (_("its pairing was revoked"), _("Generate a token to pair it again.")),
            "disabled": (_("it was switched off in Odoo"), _("Enable it, and it may connect again.")),
            "appliance_error": (
                _("the gateway had an error with it"),
                _("The gateway's log says more: show it to whoever looks after the gateway."),
            ),
            "appliance_stopped": (_("the gateway was stopped"), _("Start the gateway again.")),
            "appliance_restarted": (_("the gateway was restarted, and it has not come back since"), power),
            "ended": (_("the gateway ended the connection"), _("The gateway's message below says why.")),
            "never_connected": (
                _("it has never connected since it was paired"),
                _("Check that it is switched on, and that it reaches the gateway's address."),
            ),
        }
        return words.get(self.offline_code or "", (self.offline_reason or _("the reason is unknown"), power))

    # --- while the form is open --------------------------------------------------------------------------------

    def get_live(self, metric=False, hours=False):
        """What the open form shows of a device: how it is connected, its last reading, and a metric's chart.

        :param metric: one of ``metrics``; the first one where it is none of them
        :param hours: how far back the chart goes: 1, 24 or 168; else 24, or 1 where there are no two hours of values
        :return: a dictionary of texts and numbers; ``points`` are ``[seconds since 1970, average, minimum, maximum]``
        """
        self.ensure_one()
        self._check_operator()
        metrics = self.profile_id.sudo()._metric_names()
        metric = metric if metric in metrics else metrics[0] if metrics else ""
        hours = hours if hours in RANGES_H else self._hours_to_begin_with(metric)
        # those with a chart first
        rank = {path.removeprefix("$."): number for number, path in enumerate(metrics)}
        values = shown_values(self.last_values)
        ago = self.env["iiot.wording"]._since(self.last_telemetry)
        old = ago and self.connection_status != "online"
        return {
            "status": self.connection_status if self.state == "active" else False,
            "connection": self.connection_text,
            "advice": self.connection_advice,
            "told": self.offline_reason if self.connection_status == "offline" else False,
            "last_telemetry": fields.Datetime.to_string(self.last_telemetry) if self.last_telemetry else False,
            "last_telemetry_ago": ago,
            "old": old and _("From %s ago: the machine may have other values by now.", ago),
            "values": sorted(values, key=lambda value: rank.get(value["name"], len(rank))),
            "metrics": metrics,
            "metric": metric or False,
            "hours": hours,
            "step_s": 3600 if hours > 24 else hours * 3600 // POINTS,
            "points": self._points(metric, hours) if metric else [],
        }

    def _hours_to_begin_with(self, metric: str) -> int:
        """A day; an hour where the values are so new that a day would show a dot."""
        now = fields.Datetime.now()
        self.env.cr.execute(
            "SELECT min(at) FROM iiot_telemetry_value WHERE device_id = %s AND metric = %s AND at > %s",
            (self.id, metric, now - timedelta(hours=24)),
        )
        first = self.env.cr.fetchone()[0]
        return 1 if first and first > now - timedelta(hours=2) else 24

    def _points(self, metric: str, hours: int) -> list[list[float]]:
        """A metric over the last hours, in as many points as a screen shows; a week comes from the hourly values."""
        until = fields.Datetime.now()
        since = until - timedelta(hours=hours)
        if hours > 24:
            domain = [("device_id", "=", self.id), ("metric", "=", metric), ("hour", ">=", since)]
            rows = self.env["iiot.telemetry.hour"].sudo().search(domain, order="hour")
            return [[timegm(row.hour.timetuple()), row.average, row.minimum, row.maximum] for row in rows]
        self.env.cr.execute(
            """SELECT (floor(extract(epoch FROM at) / %(step)s) * %(step)s)::float8, avg(value), min(value), max(value)
                 FROM iiot_telemetry_value
                WHERE device_id = %(device)s AND metric = %(metric)s AND at BETWEEN %(since)s AND %(until)s
                GROUP BY 1 ORDER BY 1""",
            {
                "device": self.id,
                "metric": metric,
                "since": since,
                "until": until + timedelta(minutes=5),
                "step": hours * 3600 // POINTS,
            },
        )
        return [list(row) for row in self.env.cr.fetchall()]

    def _told(self, text: str, paired: Any = ()) -> dict[str, Any]:
        """What a button says: what was done, and when the gateways of those that are paired learn it."""
        names = ", ".join(self[:NAMES_SHOWN].mapped("display_name")) + ("…" if len(self) > NAMES_SHOWN else "")
        gateways = paired.gateway_id.filtered("is_enabled") if paired else self.env["iiot.gateway"]
        silent = gateways.filtered(
            lambda gateway: not gateway.last_contact or gateway.last_contact < fields.Datetime.now() - SILENT_AFTER
        )
        if silent:
            later = _("%s has no contact now, and is told when it is back.", ", ".join(silent.mapped("name")))
            return told(names, f"{text} {later}", "warning")
        if gateways:
            later = _("The gateway is told within seconds.")
            return told(names, f"{text} {later}")
        return told(names, text)

    # --- buttons -----------------------------------------------------------------------------------------------

    def action_open_readings(self):
        """The readings of this device."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_telemetry_action"),
            "domain": [("device_id", "=", self.id)],
            "context": {"search_default_last_day": 0},
        }

    def action_open_chart(self):
        """The hourly values of this device."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_telemetry_hour_action"),
            "domain": [("device_id", "=", self.id)],
            "context": {
                **self.env["iiot.telemetry.hour"]._context_of(self.profile_id),
                "pivot_row_groupby": ["hour:day"],
            },
        }

    def action_open_business_record(self):
        """The business record that the device belongs to."""
        self.ensure_one()
        record = self.business_ref
        return record and {
            "type": "ir.actions.act_window",
            "res_model": record._name,
            "res_id": record.id,
            "view_mode": "form",
        }
