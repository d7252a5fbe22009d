from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

from odoo import _, api, fields, models
from odoo.exceptions import UserError

from ..lib.answer import device_words
from ..lib.command_life import BY_DEVICE, FINAL, Life
from .constraints import declare, ensure_index
from .told import told

ANSWER_BYTES = 600 << 10
"""Of commands in one answer to ``sync``, by an upper estimate."""
NO_NEWS_AFTER = timedelta(hours=1)
DAYS_KEPT_PARAMETER = "iiot.command_days"
REMOVED_AT_A_TIME = 10_000
CONCLUDED_AT_A_TIME = 1_000


class IiotCommand(models.Model):
    """An order to a device, with what was sent, who sent it, and everything that is known of its life.

    Nobody writes or deletes one: it comes by ``send_command`` and changes by what its appliance reports.
    """

    _name = "iiot.command"
    _description = "IIoT Command"
    _order = "id desc"
    _rec_name = "action"

    command_id = fields.Char("Command ID", required=True, readonly=True, copy=False)
    device_id = fields.Many2one("iiot.device", required=True, readonly=True, index=True, ondelete="cascade")
    company_id = fields.Many2one("res.company", required=True, readonly=True, index=True)
    user_id = fields.Many2one("res.users", "Sent By", readonly=True, index=True)
    origin = fields.Selection(
        [("odoo", "Odoo"), ("appliance", "Gateway")],
        default="odoo",
        required=True,
        readonly=True,
        help="Gateway: somebody sent it through the gateway's own interface.",
    )
    action = fields.Char(required=True, readonly=True)
    params = fields.Text("Parameters", readonly=True)
    payload = fields.Text(readonly=True, help="Exactly what the device receives.")
    deliver = fields.Selection(
        [("at_least_once", "At Least Once"), ("at_most_once", "At Most Once")],
        default="at_least_once",
        required=True,
        readonly=True,
        help="At least once: repeated until the device acknowledges. At most once: never repeated.",
    )
    state = fields.Selection(
        [
            ("queued", "Queued"),
            ("sent", "Sent"),
            ("delivered", "Delivered"),
            ("done", "Done"),
            ("failed", "Failed"),
            ("expired", "Expired"),
            ("cancelled", "Cancelled"),
        ],
        default="queued",
        required=True,
        readonly=True,
        index=True,
        help="Delivered: the device has acknowledged it. Done or failed: it has answered.",
    )
    reason = fields.Char("Reason Code", readonly=True)
    detail = fields.Char("Explanation", readonly=True)
    reason_text = fields.Char("Reason", compute="_compute_reason_text")
    late = fields.Boolean(readonly=True, help="A report that came after its end has changed its state.")
    deliveries = fields.Integer(readonly=True, help="How often it was written to the device.")
    queued_at = fields.Datetime(readonly=True, required=True, default=fields.Datetime.now, index=True)
    sent_at = fields.Datetime(readonly=True)
    delivered_at = fields.Datetime(readonly=True)
    ended_at = fields.Datetime(readonly=True)
    deadline = fields.Float(readonly=True, help="Seconds since 1970, to the millisecond.")
    expires_at = fields.Datetime(compute="_compute_expires_at")
    response = fields.Text(readonly=True, help="The device's last answer.")
    response_at = fields.Datetime(readonly=True)
    history = fields.Json("History (JSON)", readonly=True)
    history_text = fields.Text("History", compute="_compute_history_text")
    problem = fields.Char("Push Problem", readonly=True, help="Why it could not be handed to the gateway directly.")
    retry_of_id = fields.Many2one("iiot.command", readonly=True, index="btree_not_null")
    retry_ids = fields.One2many("iiot.command", "retry_of_id", "Retries")

    concluded = fields.Boolean(readonly=True, help="Odoo ended it by itself; any later report overrides that.")
    waiting = fields.Boolean(readonly=True, help="To be offered to the gateway until it has reported on it.")
    offered = fields.Boolean(readonly=True)
    cancel_requested = fields.Boolean("To Be Taken Back", readonly=True)
    cancel_offered = fields.Boolean(readonly=True)

    declare(vars(), command_id_unique=("UNIQUE(command_id)", "There is a command with this ID already."))

    def init(self):
        ensure_index(self, "waiting_idx", "(device_id, id) WHERE waiting")
        ensure_index(self, "cancel_idx", "(device_id, id) WHERE cancel_requested AND state = 'queued'")
        ensure_index(self, "open_idx", "(deadline) WHERE state IN ('queued', 'sent')")

    @api.depends("reason", "detail", "response")
    def _compute_reason_text(self):
        words = self._reason_words()
        for command in self:
            text = words.get(command.reason or "", command.reason or "")
            own = device_words(command.response) if command.reason == BY_DEVICE else ""
            if own:
                text = _("The device says: %s", own)
            command.reason_text = " ".join(filter(None, (text, command.detail)))

    def _reason_words(self) -> dict[str, str]:
        return {
            "no_ack": _("The device never acknowledged it."),
            "device": _("The device answered with an error."),
            "not_paired": _("The device is not paired with a gateway yet."),
            "device_disabled": _("The device is not active."),
            "revoked": _("The pairing of the device was revoked."),
            "withdrawn": _("It was taken back before it was fetched."),
            "unknown_device": _("The gateway does not know the device."),
            "command_too_large": _("It is larger than the device takes."),
            "clock_behind": _("The gateway was off for an unknown time."),
            "not_fetched": _("No gateway fetched it in time."),
            "no_news": _("Nothing more was reported about it."),
            "not_connected": _("The device had just disconnected."),
        }

    @api.depends("deadline")
    def _compute_expires_at(self):
        for command in self:
            command.expires_at = _naive(command.deadline) if command.deadline else False

    @api.depends("history")
    def _compute_history_text(self):
        for command in self:
            command.history_text = "\n".join(
                "  ".join(str(entry[key]) for key in ("at", "state", "delivery", "reason", "by") if entry.get(key))
                + ("  late" if entry.get("late") else "")
                for entry in command.history or []
            )

    # --- what people do --------------------------------------------------------------------------------------

    def action_cancel(self):
        """Take back what was not written to the device. One that no appliance can have ends here and now."""
        self.device_id._check_operator()
        commands = self.sudo()
        if any(command.state in FINAL or command.state == "delivered" for command in commands):
            raise UserError(_("What has been delivered or has ended cannot be taken back."))
        free = commands.filtered(lambda command: command.waiting and not command.offered)
        free._conclude("cancelled", "withdrawn")
        (commands - free).write({"cancel_requested": True, "cancel_offered": False})
        (commands - free)._nudge()
        if commands == free:
            return told(commands._titles(), _("Taken back. The device will not get it."))
        text = _("It is being taken back. Unless the device has it already, it will not get it.")
        return told(commands._titles(), text, "info")

    def action_retry(self):
        """Send the same once more, as a new command."""
        self.device_id._check_operator()
        retries = self.env["iiot.command"].sudo()
        for command in self.sudo():
            if command.state not in FINAL:
                raise UserError(_("%s has not ended yet.", command.action))
            if command.origin != "odoo":
                raise UserError(_("Only what was sent from here can be sent again."))
            retries |= command.device_id._make_commands(
                command.action, json.loads(command.params or "{}"), deliver=command.deliver, retry_of_id=command.id
            )
        return retries._told_to_user()

    def _told_to_user(self):
        """What a button shows: where its commands stand, without waiting for an appliance."""
        failed = self.filtered(lambda command: command.state == "failed")
        (self - failed).sudo().tell_user = True
        if failed:
            message, kind = "\n".join(sorted({command.reason_text for command in failed})), "warning"
        else:
            message, kind = _("It is on its way."), "info"
        return told(self._titles(), message, kind)

    def _titles(self) -> str:
        return ", ".join(sorted(set(self.mapped("action"))))

    def action_open_retries(self):
        """The commands that repeat this one."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_command_action"),
            "domain": [("retry_of_id", "=", self.id)],
        }

    # --- its life --------------------------------------------------------------------------------------------

    def _life(self) -> Life:
        return Life(
            state=self.state,
            reason=self.reason or None,
            detail=self.detail or None,
            concluded=self.concluded,
            late=self.late,
            deliveries=self.deliveries,
            sent_at=self.sent_at or None,
            delivered_at=self.delivered_at or None,
            ended_at=self.ended_at or None,
            response=self.response or None,
            response_at=self.response_at or None,
            heard=not self.waiting,
            history=list(self.history or []),
        )

    def _conclude(self, state: str, reason: str | None = None, detail: str | None = None):
        """End these without a report: Odoo knows enough, or never will."""
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        for command in self:
            life = command._life()
            life.conclude(state, now, reason, detail)
            command.write(
                {
                    "state": life.state,
                    "reason": life.reason,
                    "detail": life.detail,
                    "concluded": True,
                    "ended_at": life.ended_at,
                    "history": life.history,
                    "waiting": False,
                }
            )
        self._tell_end()

    @api.model
    def _cron_conclude(self):
        """Those of which nothing was heard in time; and those that nobody fetched."""
        now = datetime.now(timezone.utc)
        over = ("deadline", "<=", now.timestamp())
        unfetched = self.search(
            [("state", "=", "queued"), ("waiting", "=", True), ("offered", "=", False), over], limit=CONCLUDED_AT_A_TIME
        )
        unfetched._conclude("expired", "not_fetched")
        silent = self.search(
            [("state", "in", ("queued", "sent")), ("deadline", "<=", (now - NO_NEWS_AFTER).timestamp())],
            limit=CONCLUDED_AT_A_TIME,
        )
        silent._conclude("expired", "no_news")

    @api.model
    def _cron_remove_old(self):
        """Commands are kept for auditing; those older than the parameter says go, ``0`` keeps all."""
        days = int(self.env["ir.config_parameter"].sudo().get_param(DAYS_KEPT_PARAMETER) or 0)
        if days > 0:
            before = fields.Datetime.now() - timedelta(days=days)
            old = self.search(
                [("queued_at", "<", before), ("state", "not in", ("queued", "sent"))],
                limit=REMOVED_AT_A_TIME,
                order="id",
            )
            old.unlink()


def _naive(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None, microsecond=0)
