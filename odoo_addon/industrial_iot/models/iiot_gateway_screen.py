"""What a gateway's cards and form say in words."""

from datetime import timedelta

from odoo import _, api, fields, models

CONDITIONS = [
    ("ok", "All Well"),
    ("degraded", "Needs Attention"),
    ("failing", "Failing"),
    ("silent", "Silent"),
    ("new", "Not Enrolled"),
    ("off", "Switched Off"),
    ("copy", "Copy"),
]
PERCENT_LOW = 10


class IiotGateway(models.Model):
    _inherit = "iiot.gateway"

    condition = fields.Selection(CONDITIONS, compute="_compute_condition", help="How the appliance is, in one word.")
    contact_text = fields.Char("Contact", compute="_compute_texts")
    devices_text = fields.Char("Devices Online", compute="_compute_texts")
    backlog_text = fields.Char("Backlog", compute="_compute_texts")
    disk_text = fields.Char("Disk", compute="_compute_texts")
    disk_used_percent = fields.Float("Disk Used", compute="_compute_texts")
    clock_text = fields.Char("Clock", compute="_compute_texts")
    uptime_text = fields.Char("Running For", compute="_compute_texts")
    ledger_text = fields.Char("Ledger in a Sentence", compute="_compute_ledger")
    ledger_adds_up = fields.Boolean(compute="_compute_ledger")
    ledger_table = fields.Json("Ledger", compute="_compute_ledger")
    device_count = fields.Integer("Number of Devices", compute="_compute_device_count")

    @api.depends("is_enabled", "is_copy", "is_silent", "status", "last_contact", "silence_limit_min")
    def _compute_condition(self):
        for gateway in self:
            if not gateway.is_enabled:
                gateway.condition = "off"
            elif gateway.is_copy:
                gateway.condition = "copy"
            elif not gateway.last_contact:
                gateway.condition = "new"
            elif gateway.is_silent or gateway._is_overdue():
                gateway.condition = "silent"
            else:
                gateway.condition = gateway.status or "ok"

    def _is_overdue(self):
        """Whether it was silent for longer than its limit, also before the scheduled action has noticed."""
        limit = self.silence_limit_min
        return limit > 0 and self.last_contact < fields.Datetime.now() - timedelta(minutes=limit)

    @api.depends(
        "last_contact", "waiting", "oldest_waiting_at", "drain_s", "disk_free_mb", "disk_total_mb", "clock_ahead_s",
        "uptime_s", "devices_online", "devices_paired",
    )  # fmt: skip
    def _compute_texts(self):
        wording = self.env["iiot.wording"]
        for gateway in self:
            ago = wording._since(gateway.last_contact)
            gateway.contact_text = _("%s ago", ago) if ago else _("Never")
            gateway.devices_text = gateway.last_contact and _(
                "%(online)s of %(paired)s", online=gateway.devices_online, paired=gateway.devices_paired
            )
            gateway.backlog_text = gateway._backlog_words(wording)
            total, free = gateway.disk_total_mb, gateway.disk_free_mb
            gateway.disk_used_percent = 100 * (total - free) / total if total else 0
            gateway.disk_text = (
                _("%(free)s free of %(total)s", free=wording._megabytes(free), total=wording._megabytes(total))
                if total
                else False
            )
            ahead = gateway.clock_ahead_s
            span = wording._duration(abs(ahead))
            gateway.clock_text = (
                _("Right")
                if abs(ahead) < 2
                else _("%s ahead of Odoo's", span)
                if ahead > 0
                else _("%s behind Odoo's", span)
            )
            gateway.uptime_text = wording._duration(gateway.uptime_s) if gateway.uptime_s else False

    def _backlog_words(self, wording):
        if not self.last_contact:
            return False
        if not self.waiting:
            return _("Nothing waits")
        count = f"{int(self.waiting):,}"
        oldest = wording._since(self.oldest_waiting_at)
        if not oldest:
            return _("%s messages wait", count)
        if not self.drain_s:
            return _("%(count)s messages wait, the oldest for %(oldest)s", count=count, oldest=oldest)
        return _(
            "%(count)s messages wait, the oldest for %(oldest)s; all here in about %(drain)s",
            count=count,
            oldest=oldest,
            drain=wording._duration(self.drain_s),
        )

    @api.depends(
        "ledger_received", "ledger_stored", "ledger_waiting", "ledger_parked", "ledger_removed", "readings_stored",
        "ledger_refused", "ledger_repeated",
    )  # fmt: skip
    def _compute_ledger(self):
        for gateway in self:
            received = gateway.ledger_received
            kept = gateway.ledger_stored + gateway.ledger_waiting + gateway.ledger_parked + gateway.ledger_removed
            gateway.ledger_adds_up = received == kept
            gateway.ledger_table = {
                "head": ["", _("Readings"), _("What it means")],
                "rows": [
                    _row(_("Received from devices"), received, _("The appliance has confirmed them to the devices.")),
                    _row(_("In Odoo, says the appliance"), gateway.ledger_stored, _("Odoo has confirmed them.")),
                    _row(_("In Odoo, counts Odoo"), gateway.readings_stored, _("Since it was enrolled here.")),
                    _row(_("Waiting"), gateway.ledger_waiting, _("On the appliance's disk, on their way."), "warning"),
                    _row(_("Set aside"), gateway.ledger_parked, _("Odoo refused them; kept with a reason."), "danger"),
                    _row(_("Removed"), gateway.ledger_removed, _("By the appliance, as its settings say."), "warning"),
                    _row(
                        _("Refused at the door"), gateway.ledger_refused, _("Never confirmed to the device."), "muted"
                    ),
                    _row(_("Sent twice by devices"), gateway.ledger_repeated, _("Counted once."), "muted"),
                ],
            }
            if not received:
                gateway.ledger_text = _("No reading was received yet.")
            elif gateway.ledger_adds_up:
                gateway.ledger_text = _("Every one of %s readings is accounted for.", f"{int(received):,}")
            else:
                gateway.ledger_text = _(
                    "%s readings are not accounted for: tell whoever looks after the appliance.",
                    f"{abs(int(received - kept)):,}",
                )

    @api.depends("device_ids")
    def _compute_device_count(self):
        groups = self.env["iiot.device"]._read_group([("gateway_id", "in", self.ids)], ["gateway_id"], ["__count"])
        counts = {gateway.id: count for gateway, count in groups}
        for gateway in self:
            gateway.device_count = counts.get(gateway.id, 0)

    def action_open_devices(self):
        """The devices that are paired with it."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_device_action"),
            "domain": [("gateway_id", "=", self.id)],
            "context": {"default_gateway_id": self.id},
        }

    def action_open_events(self):
        """What it has told of itself."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_gateway_event_action"),
            "domain": [("gateway_id", "=", self.id)],
            "context": {},
        }


def _row(title, count, meaning, look=""):
    return {"cells": [title, f"{int(count):,}", meaning], "look": look if count else ""}
