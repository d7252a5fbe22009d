from odoo import fields, models

COUNT = (16, 0)  # as many as a factory's readings of some centuries; an Integer of Odoo is full after days


class IiotGatewayReport(models.Model):
    """What an appliance reports of itself, apart from what people decide of it.

    Its row is what batches and syncs of one gateway lock, so that they come one after the other.
    """

    _name = "iiot.gateway.report"
    _description = "IIoT Gateway Report"
    _log_access = False

    reported_name = fields.Char(readonly=True)
    version = fields.Char(readonly=True)
    status = fields.Selection(
        [("ok", "OK"), ("degraded", "Degraded"), ("failing", "Failing")], readonly=True, index=True
    )
    problems = fields.Text(readonly=True, help="Problems reported by the gateway, one per line.")
    last_contact = fields.Datetime(readonly=True, index=True)
    is_silent = fields.Boolean("No Contact", readonly=True, index=True, help="No contact for longer than its limit.")
    uptime_s = fields.Float("Uptime (s)", readonly=True)
    clock_ahead_s = fields.Float("Clock Ahead (s)", readonly=True, help="Compared with Odoo's clock; below 0: behind.")
    waiting = fields.Float("Waiting Messages", digits=COUNT, readonly=True)
    parked = fields.Float("Messages Set Aside", digits=COUNT, readonly=True, help="Permanently refused, with a reason.")
    oldest_waiting_at = fields.Datetime("Oldest Waiting", readonly=True)
    drain_s = fields.Float("Drained In (s)", readonly=True)
    devices_paired = fields.Integer("Paired Devices", readonly=True)
    devices_online = fields.Integer("Online Devices", readonly=True)
    disk_free_mb = fields.Float("Free Disk (MB)", digits=COUNT, readonly=True)
    disk_total_mb = fields.Float("Disk (MB)", digits=COUNT, readonly=True)
    reported_api_url = fields.Char("Reported Address", readonly=True)
    ca_fingerprint = fields.Char("Certificate Authority", readonly=True)

    # the appliance's ledger of readings, and beside it what Odoo counts itself
    ledger_received = fields.Float("Received", digits=COUNT, readonly=True)
    ledger_stored = fields.Float("In Odoo, Reported by Gateway", digits=COUNT, readonly=True)
    ledger_waiting = fields.Float("Waiting", digits=COUNT, readonly=True)
    ledger_parked = fields.Float("Set Aside", digits=COUNT, readonly=True)
    ledger_removed = fields.Float("Removed", digits=COUNT, readonly=True)
    ledger_refused = fields.Float("Refused", digits=COUNT, readonly=True)
    ledger_repeated = fields.Float("Repeated by Devices", digits=COUNT, readonly=True)
    readings_stored = fields.Float("In Odoo, Counted by Odoo", digits=COUNT, readonly=True)
    ledger_counted = fields.Float(
        "Counted by Odoo", digits=COUNT, readonly=True, help="What Odoo had counted when the gateway reported."
    )
    ledger_before = fields.Float(
        "Not for This Odoo",
        digits=COUNT,
        readonly=True,
        help="Delivered before the gateway was enrolled here, or accepted.",
    )
    ledger_gap = fields.Float(
        "Unaccounted", digits=COUNT, readonly=True, help="Received, and in none of the gateway's own figures."
    )
    ledger_short = fields.Float(
        "Missing in Odoo",
        digits=COUNT,
        readonly=True,
        help="Delivered as the gateway knows, and not counted by Odoo.",
    )

    # how the two sides stand to each other
    epoch = fields.Char(readonly=True)
    start = fields.Char(readonly=True)
    admission = fields.Char(readonly=True, groups=fields.NO_ACCESS)
    cursor = fields.Char(readonly=True)
    cursors_given = fields.Char(readonly=True, groups=fields.NO_ACCESS, help="Those that may come back.")
    identity = fields.Text(readonly=True, groups=fields.NO_ACCESS)
    identity_at = fields.Datetime("Identity Kept Since", readonly=True)
