from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from odoo import _, api, fields, models
from odoo.exceptions import UserError

from ..lib.ids import new_id
from ..lib.parameters import ParametersError, plain_parameters
from ..lib.rendering import RenderingError
from ..lib.times import rfc3339
from .iiot_device_profile import LONGEST_EXPIRY_S

ACTION_CHARACTERS = 128
DELIVER = ("at_least_once", "at_most_once")
_as_ids_over_rpc = api.returns("iiot.command") if hasattr(api, "returns") else lambda method: method
"""Newer series answer RPC with the ids of a recordset by themselves."""


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    command_ids = fields.One2many("iiot.command", "device_id", "Commands")
    command_count = fields.Integer(compute="_compute_command_count")

    @_as_ids_over_rpc
    def send_command(self, action=None, params=None, /, **named):
        """Send a command to each of these devices; the commands, one a device, in their order.

        ``device.send_command('configure', threshold=25.5, mode='auto')``. Every named argument is a parameter of the
        command, whatever its name; a dictionary as second argument does the same, also for ``context``, which no
        call over RPC can name. Options come by the context: ``iiot_expires_in_s`` (seconds, in place of the
        profile's), ``iiot_deliver`` (``at_least_once`` or ``at_most_once``).

        Nothing waits for an appliance: a command stays ``queued`` until more is known. A device that is not paired or
        not active gets one that has ``failed`` already, and says why. ``UserError`` where a command cannot be made:
        the template fails, gives no JSON, or makes something larger than the device takes; then none is sent.
        """
        if action is None:
            # called by name, as HTTP interfaces do
            action = named.pop("action", None)
        self._check_operator()
        options = self.env.context
        commands = self.sudo()._make_commands(
            action,
            {**(params or {}), **named},
            expires_in_s=options.get("iiot_expires_in_s"),
            deliver=options.get("iiot_deliver") or DELIVER[0],
        )
        return commands.sudo(self.env.su)

    def _make_commands(self, action, params, *, expires_in_s=None, deliver=DELIVER[0], **values):
        """Render, keep, and hand on after the commit. ``values`` go into each command as they are."""
        if not isinstance(action, str) or not 0 < len(action) <= ACTION_CHARACTERS:
            raise UserError(_("A command needs an action of 1 to %s characters.", ACTION_CHARACTERS))
        if deliver not in DELIVER:
            raise UserError(_("iiot_deliver must be one of %s.", ", ".join(DELIVER)))
        if expires_in_s is not None and not _is_expiry(expires_in_s):
            raise UserError(
                _("iiot_expires_in_s must be a number of seconds, above 0 and at most %s.", LONGEST_EXPIRY_S)
            )
        try:
            params, params_text = plain_parameters(params)
        except ParametersError as error:
            raise UserError(self.env["iiot.wording"]._told(error)) from None
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        vals_list = []
        for device in self:
            profile = device.profile_id
            command_id = new_id()
            try:
                payload = profile._render_command(action, params, device_id=device.device_id, command_id=command_id)
            except RenderingError as error:
                raise UserError(
                    _(
                        "The command %(action)s cannot be sent to %(device)s: %(error)s. The command template of "
                        "%(profile)s and the parameters must match.",
                        action=action,
                        device=device.display_name,
                        error=self.env["iiot.wording"]._told(error),
                        profile=profile.display_name,
                    )
                ) from None
            vals = {
                "command_id": command_id,
                "device_id": device.id,
                "company_id": device.company_id.id,
                "user_id": self.env.uid,
                "action": action,
                "params": params_text,
                "payload": payload,
                "deliver": deliver,
                "queued_at": now,
                "deadline": now.replace(tzinfo=timezone.utc).timestamp()
                + (profile.command_expires_in_s if expires_in_s is None else expires_in_s),
                "state": "queued",
                "waiting": True,
                "history": [{"state": "queued", "at": rfc3339(now), "by": "odoo"}],
                **values,
            }
            reason = device._why_no_command()
            if reason:
                vals |= {"state": "failed", "reason": reason, "concluded": True, "waiting": False, "ended_at": now}
                vals["history"] = [{"state": "failed", "at": rfc3339(now), "reason": reason, "by": "odoo"}]
            vals_list.append(vals)
        commands = self.env["iiot.command"].create(vals_list)
        commands._push()
        return commands

    def _why_no_command(self) -> str | None:
        """The reason for which a command to this device cannot be sent at all."""
        if not self.is_active or self.state in ("disabled", "retired"):
            return "device_disabled"
        return None if self.paired_at and self.gateway_id else "not_paired"

    def action_send_reset(self):
        """The button for the command that every machine knows."""
        return self.send_command("reset")._told_to_user()

    def action_send_command_dialog(self):
        """The dialog for any other command."""
        action = self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_command_dialog_action")
        return {**action, "context": {"default_device_ids": self.ids}}

    def action_open_commands(self):
        """The history of commands."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_command_action"),
            "domain": [("device_id", "=", self.id)],
            "context": {"default_device_id": self.id},
        }

    def _compute_command_count(self):
        groups = self.env["iiot.command"]._read_group([("device_id", "in", self.ids)], ["device_id"], ["__count"])
        counts = {device.id: count for device, count in groups}
        for device in self:
            device.command_count = counts.get(device.id, 0)

    def _end_waiting_commands(self, reason: str):
        """What nobody has fetched yet is not sent any more; what an appliance may have, it ends by itself."""
        waiting = self.env["iiot.command"].sudo().search([("device_id", "in", self.ids), ("waiting", "=", True)])
        waiting.filtered(lambda command: not command.offered)._conclude("cancelled", reason)
        waiting.waiting = False


def _is_expiry(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 < value <= LONGEST_EXPIRY_S
