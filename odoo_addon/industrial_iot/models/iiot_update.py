from __future__ import annotations

from datetime import datetime, timedelta, timezone

from odoo import _, api, fields, models
from odoo.exceptions import AccessError, UserError, ValidationError

from ..lib.ids import new_id
from ..lib.update_life import FINAL, UpdateLife
from .attention import ask, settle
from .constraints import declare, ensure_index
from .told import told

DEADLINE_DAYS = 7
"""Longer than an appliance's limits for all states together, four and a half days: those are what ends an update, and
more here would change nothing. This one decides where the appliance itself is away."""
CONCLUDED_AT_A_TIME = 500
TITLES_SHOWN = 3
EDITABLE = frozenset(("device_id", "firmware_id", "deadline"))
"""What people may write, and in a draft only."""


class IiotUpdate(models.Model):
    """A firmware update of one device, or its way back to the version before; what became of it."""

    _name = "iiot.update"
    _description = "IIoT Update"
    _inherit = ["mail.thread", "mail.activity.mixin"]
    _order = "id desc"
    _rec_name = "device_id"

    update_id = fields.Char("Update ID", required=True, readonly=True, copy=False, default=lambda self: new_id())
    device_id = fields.Many2one("iiot.device", required=True, index=True, ondelete="cascade")
    company_id = fields.Many2one("res.company", related="device_id.company_id", store=True, index=True)
    profile_id = fields.Many2one(related="device_id.profile_id")
    user_id = fields.Many2one("res.users", "Ordered By", readonly=True, default=lambda self: self.env.uid)
    action = fields.Selection(
        [("start_update", "Update"), ("rollback", "Rollback")], default="start_update", required=True, readonly=True
    )
    firmware_id = fields.Many2one("iiot.firmware", index=True, ondelete="restrict")
    version = fields.Char(compute="_compute_version", store=True, help="The version that is to run.")
    previous_version = fields.Char(readonly=True, copy=False, help="The version that ran when it was started.")
    state = fields.Selection(
        [
            ("draft", "Draft"),
            ("waiting", "Waiting for Gateway"),
            ("fetching", "Gateway Fetches File"),
            ("queued", "Waiting for Device"),
            ("offered", "Offered"),
            ("delivered", "Delivered"),
            ("accepted", "Accepted"),
            ("downloading", "Downloading"),
            ("downloaded", "Downloaded"),
            ("verified", "Verified"),
            ("installing", "Installing"),
            ("rebooting", "Rebooting"),
            ("cancelling", "Being Cancelled"),
            ("installed", "Installed"),
            ("already_installed", "Already Installed"),
            ("rolled_back", "Rolled Back"),
            ("failed", "Failed"),
            ("cancelled", "Cancelled"),
        ],
        default="draft",
        required=True,
        readonly=True,
        copy=False,
        index=True,
    )
    is_running = fields.Boolean(compute="_compute_is_running", search="_search_is_running")
    progress = fields.Float(readonly=True, copy=False, help="In percent, as the device tells it.")
    reason = fields.Char("Reason Code", readonly=True, copy=False)
    error = fields.Char(readonly=True, copy=False)
    problem = fields.Char("Push Problem", readonly=True, copy=False)
    new_version = fields.Char("Version Now", readonly=True, copy=False, help="The version that the device reported.")
    started_at = fields.Datetime(readonly=True, copy=False)
    ended_at = fields.Datetime(readonly=True, copy=False)
    deadline = fields.Datetime(
        copy=False, help="If it has not ended by then, it counts as failed. The gateway has shorter limits of its own."
    )
    history = fields.Json("History (JSON)", readonly=True, copy=False)
    history_text = fields.Text("History", compute="_compute_history_text")
    retry_of_id = fields.Many2one("iiot.update", readonly=True, copy=False, index="btree_not_null")
    rollback_of_id = fields.Many2one("iiot.update", "Undoes", readonly=True, copy=False, index="btree_not_null")

    from_device = fields.Boolean(readonly=True, copy=False)
    waiting = fields.Boolean(readonly=True, copy=False, help="To be offered until the gateway has reported on it.")
    offered = fields.Boolean(readonly=True, copy=False)
    cancel_requested = fields.Boolean("To Be Cancelled", readonly=True, copy=False)
    cancel_offered = fields.Boolean(readonly=True, copy=False)

    declare(vars(), update_id_unique=("UNIQUE(update_id)", "There is an update with this ID already."))

    def init(self):
        not_running = ", ".join(f"'{state}'" for state in ("draft", *FINAL))
        ensure_index(self, "one_running", f"(device_id) WHERE state NOT IN ({not_running})", unique=True)
        ensure_index(self, "to_offer_idx", "(device_id, id) WHERE waiting OR cancel_requested")

    @api.depends("firmware_id.version")
    def _compute_version(self):
        for update in self:
            update.version = update.firmware_id.version

    @api.depends("state")
    def _compute_is_running(self):
        for update in self:
            update.is_running = update.state not in ("draft", *FINAL)

    def _search_is_running(self, operator, value):
        running = (operator in ("=", "in")) == bool(value if operator in ("=", "!=") else True in value)
        return [("state", "not in" if running else "in", ("draft", *FINAL))]

    @api.depends("history")
    def _compute_history_text(self):
        for update in self:
            update.history_text = "\n".join(
                "  ".join(str(entry[key]) for key in ("at", "state", "reason", "error", "by") if entry.get(key))
                + ("  late" if entry.get("late") else "")
                for entry in update.history or []
            )

    @api.depends("device_id", "version", "action")
    def _compute_display_name(self):
        for update in self:
            what = update.version or dict(self._fields["action"]._description_selection(self.env))[update.action]
            # one that is still being typed has no name
            update.display_name = f"{update.device_id.display_name}: {what}" if update.device_id else False

    @api.constrains("device_id", "firmware_id", "action")
    def _check_firmware(self):
        for update in self:
            if update.action == "start_update" and not update.firmware_id:
                raise ValidationError(_("An update needs a firmware version."))
            wanted = update.firmware_id.profile_id
            if wanted and wanted != update.device_id.profile_id:
                raise ValidationError(
                    _(
                        "%(firmware)s is for %(profile)s, not for %(device)s.",
                        firmware=update.firmware_id.version,
                        profile=wanted.name,
                        device=update.device_id.name,
                    )
                )

    @api.model_create_multi
    def create(self, vals_list):
        if not self.env.su and any(_beside_chatter(vals) - EDITABLE for vals in vals_list):
            raise AccessError(_("Only the device, firmware and deadline of an update can be set."))
        return super().create(vals_list)

    def write(self, vals):
        changed = set() if self.env.su else _beside_chatter(vals)
        if changed - EDITABLE or (changed and any(update.state != "draft" for update in self)):
            raise AccessError(_("An update that has started cannot be changed: cancel it and create another one."))
        return super().write(vals)

    @api.ondelete(at_uninstall=False)
    def _unlink_except_draft(self):
        if any(update.state != "draft" for update in self):
            raise UserError(_("Updates that were started are kept."))

    # --- what people do --------------------------------------------------------------------------------------

    def action_start(self):
        """Order it; it goes out with the next contact of the gateway, or at once where Odoo may call that."""
        self.device_id._check_operator()
        updates = self.sudo()
        now = fields.Datetime.now()
        updates.device_id._check_may_update()
        for update in updates:
            if update.state != "draft":
                raise UserError(_("It has been started already."))
            update.write(
                {
                    "state": "waiting",
                    "waiting": True,
                    "user_id": self.env.uid,
                    "started_at": now,
                    "deadline": update.deadline or now + timedelta(days=DEADLINE_DAYS),
                    "previous_version": update.device_id.firmware_version,
                    "history": [{"state": "waiting", "at": f"{now.isoformat()}.000Z", "by": "odoo"}],
                }
            )
        updates.flush_recordset()
        updates._push()
        return True

    def action_cancel(self):
        """End what no gateway can have; ask for the end of all else, which stands when it is told."""
        self.device_id._check_operator()
        for update in self.sudo():
            if not update.is_running:
                raise UserError(_("It is not running."))
            if update.waiting and not update.offered:
                update._conclude("cancelled", "withdrawn")
            else:
                update.write({"cancel_requested": True, "cancel_offered": False})
                update._nudge()
        if any(update.cancel_requested for update in self.sudo()):
            return told(self._titles(), _("The device is told to stop. Here you see when it has."), "info")
        return told(self._titles(), _("Cancelled. The device runs what it ran before."))

    def _titles(self) -> str:
        return ", ".join(self[:TITLES_SHOWN].mapped("display_name")) + ("…" if len(self) > TITLES_SHOWN else "")

    def action_retry(self):
        """The same once more, as a new update."""
        self.device_id._check_operator()
        retries = self.env["iiot.update"].sudo()
        for update in self.sudo():
            if update.is_running or update.state == "draft":
                raise UserError(_("It has not ended yet."))
            retries |= update.copy({"retry_of_id": update.id, "action": update.action, "user_id": self.env.uid})
        retries.action_start()
        settle(self.sudo(), "update_failed")
        return retries._opened()

    def action_rollback(self):
        """Tell the devices to go back to the version before, as an order of its own."""
        self.device_id._check_operator()
        updates = self.sudo()
        orders = self.env["iiot.update"].sudo()
        for update in updates:
            if update.state not in ("installed", "already_installed"):
                raise UserError(_("Only what was installed can be undone."))
            orders |= updates.create(
                {
                    "device_id": update.device_id.id,
                    "action": "rollback",
                    "rollback_of_id": update.id,
                    "user_id": self.env.uid,
                }
            )
        orders.action_start()
        return orders._opened()

    def _opened(self):
        action = self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_update_action")
        if len(self) == 1:
            return {**action, "views": [(False, "form")], "res_id": self.id}
        return {**action, "domain": [("id", "in", self.ids)]}

    # --- its life --------------------------------------------------------------------------------------------

    def _life(self) -> UpdateLife:
        return UpdateLife(
            state=self.state,
            progress=self.progress,
            error=self.error or None,
            reason=self.reason or None,
            from_device=self.from_device,
            new_version=self.new_version or None,
            ended_at=self.ended_at or None,
            history=list(self.history or []),
        )

    def _store_life(self, life: UpdateLife):
        self.ensure_one()
        self.write(
            {
                **{name: getattr(life, name) for name in ("state", "progress", "error", "reason", "from_device")},
                **{name: getattr(life, name) for name in ("new_version", "ended_at", "history")},
                **({"waiting": False} if life.heard or life.state in FINAL else {}),
                # a cancellation has arrived when it is told that it has, or when nothing is left of it
                **({"cancel_requested": False} if life.state in ("cancelling", *FINAL) else {}),
            }
        )

    def _conclude(self, state: str, reason: str, error: str | None = None):
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        for update in self:
            life = update._life()
            life.conclude(state, now, reason=reason, error=error)
            update._store_life(life)
        self._look_after()

    def _look_after(self):
        """Work for whoever ordered what has failed; none any more for earlier ones of a device that has got on."""
        failed = self.filtered(
            lambda update: update.state in ("failed", "rolled_back") and not update._is_wanted_rollback()
        )
        for user in (*failed.user_id, self.env["res.users"]):  # the last for those of nobody that is still there
            mine = failed.filtered(lambda update, user=user: update.user_id == user)
            ask(mine, "update_failed", lambda update: (update.display_name, update._end_words()), user=user)
        done = (self - failed).filtered(lambda update: update.state in FINAL)
        settle(self.search([("device_id", "in", done.device_id.ids), ("activity_ids", "!=", False)]), "update_failed")

    def _is_wanted_rollback(self):
        return self.action == "rollback" and self.state == "rolled_back"

    def _end_words(self):
        state = dict(self._fields["state"]._description_selection(self.env))[self.state]
        return ": ".join(filter(None, (state, self.error or self.reason)))

    @api.model
    def _cron_deadline(self):
        """What nobody has ended in time has failed; its gateway is told to end it, too."""
        late = self.search(
            [("state", "not in", ("draft", *FINAL)), ("deadline", "<", fields.Datetime.now())],
            limit=CONCLUDED_AT_A_TIME,
        )
        for update in late:
            was_offered = update.offered
            update._conclude("failed", "timeout", _("It did not end in time."))
            if was_offered:
                update.write({"cancel_requested": True, "cancel_offered": False})


def _beside_chatter(vals) -> set[str]:
    return {name for name in vals if not name.startswith(("message_", "activity_", "website_"))}


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    update_ids = fields.One2many("iiot.update", "device_id", "Updates")
    running_update_id = fields.Many2one("iiot.update", compute="_compute_running_update")

    @api.depends("update_ids.state")
    def _compute_running_update(self):
        running = self.env["iiot.update"].search(
            [("device_id", "in", self.ids), ("state", "not in", ("draft", *FINAL))]
        )
        by_device = {update.device_id: update for update in running}
        for device in self:
            device.running_update_id = by_device.get(device, self.env["iiot.update"])

    def _check_may_update(self):
        """``UserError`` where one of these devices cannot be updated now."""
        for device in self:
            if device._why_no_command():
                raise UserError(_("%s is not paired, or not active.", device.display_name))
        busy = self.running_update_id
        if busy:
            raise UserError(_("%s has a running update: cancel it first.", busy[0].device_id.display_name))

    def action_open_updates(self):
        """All updates of this device."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_update_action"),
            "domain": [("device_id", "=", self.id)],
            "context": {"default_device_id": self.id},
        }
