"""What a gateway's cards and form say in words."""

from datetime import timedelta

from odoo import _, api, fields, models

CONDITIONS = [
    ("ok", "OK"),
    ("degraded", "Needs Attention"),
    ("failing", "Failing"),
    ("silent", "No Contact"),
    ("new", "Not Enrolled"),
    ("off", "Switched Off"),
    ("copy", "Copy"),
]
TROUBLE = [
    ("is_enabled", "=", True),
    *("|", "|", "|", "|", ("is_silent", "=", True), ("status", "in", ("degraded", "failing"))),
    *(("parked", ">", 0), ("ledger_gap", "!=", 0), ("ledger_short", ">", 0)),
]
"""What a person has to look after."""


class IiotGateway(models.Model):
    _inherit = "iiot.gateway"

    condition = fields.Selection(CONDITIONS, compute="_compute_condition", help="State of the gateway, in one word.")
    needs_attention = fields.Boolean(compute="_compute_needs_attention", search="_search_needs_attention")
    contact_text = fields.Char("Contact", compute="_compute_texts")
    devices_text = fields.Char("Devices Online", compute="_compute_texts")
    backlog_text = fields.Char("Backlog", compute="_compute_texts")
    disk_text = fields.Char("Disk", compute="_compute_texts")
    disk_used_percent = fields.Float("Disk Used", compute="_compute_texts")
    clock_text = fields.Char("Clock", compute="_compute_texts")
    uptime_text = fields.Char("Uptime", compute="_compute_texts")
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

    @api.depends("is_enabled", "is_silent", "status", "parked", "ledger_gap", "ledger_short")
    def _compute_needs_attention(self):
        trouble = self.filtered_domain(TROUBLE)
        for gateway in self:
            gateway.needs_attention = gateway in trouble

    def _search_needs_attention(self, operator, value):
        wanted = (operator in ("=", "in")) == bool(value if operator in ("=", "!=") else True in value)
        found = self.search(TROUBLE)
        return [("id", "in" if wanted else "not in", found.ids)]

    def _is_overdue(self):
        """Whether it was silent for longer than its limit, also before the scheduled action has noticed."""
        limit = self.silence_limit_min
        return limit > 0 and self.last_contact < fields.Datetime.now() - timedelta(minutes=limit)

    @api.depends(
        "last_contact", "waiting", "oldest_waiting_at", "drain_s", "disk_free_mb", "disk_total_mb", "clock_ahead_s",
        "uptime_s", "devices_online", "devices_paired", "is_silent", "silence_limit_min",
    )  # fmt: skip
    def _compute_texts(self):
        wording = self.env["iiot.wording"]
        for gateway in self:
            ago = wording._since(gateway.last_contact)
            gateway.contact_text = _("%s ago", ago) if ago else _("Never")
            overdue = bool(gateway.last_contact) and (gateway.is_silent or gateway._is_overdue())
            backlog = gateway._backlog_words(wording)
            gateway.backlog_text = _("%s at the last contact", backlog) if overdue else backlog
            gateway.devices_text = gateway._devices_words(overdue)
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
                _("Correct")
                if abs(ahead) < 2
                else _("%s ahead of Odoo", span)
                if ahead > 0
                else _("%s behind Odoo", span)
            )
            gateway.uptime_text = wording._duration(gateway.uptime_s) if gateway.uptime_s else False

    def _devices_words(self, overdue):
        if not self.last_contact:
            return False
        figures = {"online": self.devices_online, "paired": self.devices_paired}
        if overdue:
            return _("%(online)s of %(paired)s at the last contact", **figures)
        return _("%(online)s of %(paired)s", **figures)

    def _backlog_words(self, wording):
        if not self.last_contact:
            return False
        if not self.waiting:
            return _("No messages waiting")
        count = f"{int(self.waiting):,}"
        oldest = wording._since(self.oldest_waiting_at)
        if not oldest:
            return _("%s messages waiting", count)
        if not self.drain_s:
            return _("%(count)s messages waiting, the oldest for %(oldest)s", count=count, oldest=oldest)
        return _(
            "%(count)s messages waiting, the oldest for %(oldest)s; delivered in about %(drain)s",
            count=count,
            oldest=oldest,
            drain=wording._duration(self.drain_s),
        )

    @api.depends(
        "ledger_received", "ledger_stored", "ledger_waiting", "ledger_parked", "ledger_removed", "readings_stored",
        "ledger_refused", "ledger_repeated", "ledger_counted", "ledger_gap", "ledger_short", "last_contact",
    )  # fmt: skip
    def _compute_ledger(self):
        for gateway in self:
            received = gateway.ledger_received
            gateway.ledger_adds_up = not gateway.ledger_gap and not gateway.ledger_short
            gateway.ledger_table = {
                "head": ["", _("Readings"), _("What it means")],
                "note": _("As of %s.", gateway.contact_text) if gateway.last_contact else False,
                "rows": [
                    _row(_("Received from devices"), received, _("The gateway has confirmed them to the devices.")),
                    _row(_("In Odoo, reported by the gateway"), gateway.ledger_stored, _("Odoo has confirmed them.")),
                    _row(
                        _("In Odoo, counted by Odoo"),
                        gateway.ledger_counted,
                        _("At that moment, since it was enrolled here; those on their way may be among them."),
                    ),
                    _row(_("Waiting"), gateway.ledger_waiting, _("On the gateway's disk, on their way."), "warning"),
                    _row(_("Set aside"), gateway.ledger_parked, _("Odoo refused them; kept with a reason."), "danger"),
                    _row(
                        _("Removed"), gateway.ledger_removed, _("By the gateway, according to its settings."), "warning"
                    ),
                    _row(
                        _("Refused on arrival"),
                        gateway.ledger_refused,
                        _("Never confirmed to the device; the gateway's pages say why."),
                        "muted",
                    ),
                    _row(_("Sent twice by devices"), gateway.ledger_repeated, _("Counted once."), "muted"),
                ],
            }
            gateway.ledger_text = gateway._ledger_words()

    def _ledger_words(self):
        """What the ledger comes to, in a sentence."""
        received, count = self.ledger_received, f"{int(self.ledger_short):,}"
        if self.ledger_gap:
            return _(
                "%s readings are not accounted for: tell whoever looks after the gateway.",
                f"{abs(int(self.ledger_gap)):,}",
            )
        if self.ledger_short:
            return _("Odoo has %s readings fewer than it was given: was its database restored from a backup?", count)
        if not received:
            return _("No reading was received yet.")
        return _("Every one of %s readings is accounted for.", f"{int(received):,}")

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
