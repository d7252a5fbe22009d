from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from odoo import _, api, fields, models
from odoo.exceptions import UserError

from ..lib import json_text
from ..lib.ids import new_id
from ..lib.rendering import RenderingError
from ..lib.template_samples import named_in

KINDS_SHOWN = NAMED = 5
WORDS_SHOWN = 20
USED_IN_DAYS = 90


class IiotCommandDialog(models.TransientModel):
    """What somebody types to send a command to one device or many, and what they would get.

    Parameters are typed one per line; whoever prefers it types them as JSON.
    """

    _name = "iiot.command.dialog"
    _description = "IIoT Send Command"

    device_ids = fields.Many2many("iiot.device", string="Devices", required=True)
    action = fields.Char("Command", required=True)
    known_actions = fields.Char(
        "Used Before",
        compute="_compute_known",
        help="What devices of the same kind were sent lately, and what their template names.",
    )
    param_ids = fields.One2many("iiot.command.dialog.param", "dialog_id", "Parameters")
    as_json = fields.Boolean("Type Parameters as JSON")
    params = fields.Text(
        "Parameters as JSON",
        compute="_compute_params",
        store=True,
        readonly=False,
        help='A JSON object such as {"delay": 5}.',
    )
    params_problem = fields.Char(compute="_compute_preview")
    expires_in_s = fields.Integer("Expires After (s)", help="0: as set in the configuration template.")
    preview = fields.Text("Message to the Device", compute="_compute_preview")
    preview_problem = fields.Char(compute="_compute_preview")
    warning = fields.Text(compute="_compute_warning")

    @api.depends("param_ids.name", "param_ids.value", "as_json")
    def _compute_params(self):
        for dialog in self:
            if not dialog.as_json and dialog.param_ids:
                values = {param.name: param.plain_value() for param in dialog.param_ids if param.name}
                dialog.params = json.dumps(values, ensure_ascii=False)
            else:
                dialog.params = dialog.params or "{}"

    @api.depends("device_ids")
    def _compute_known(self):
        for dialog in self:
            actions: list[str] = []
            for profile in dialog.device_ids.profile_id[:KINDS_SHOWN].sudo():
                actions += named_in(profile.command_template or "")[0]
            earlier = self.env["iiot.command"]._read_group(
                [
                    ("device_id.profile_id", "in", dialog.device_ids.profile_id.ids),
                    ("origin", "=", "odoo"),
                    ("queued_at", ">", fields.Datetime.now() - timedelta(days=USED_IN_DAYS)),
                ],
                ["action"],
                order="__count desc, action",
                limit=WORDS_SHOWN,
            )
            dialog.known_actions = ", ".join(dict.fromkeys([*actions, *(action for (action,) in earlier)])) or False

    @api.depends("device_ids", "action", "params")
    def _compute_preview(self):
        for dialog in self:
            dialog.preview = dialog.preview_problem = dialog.params_problem = False
            try:
                params = dialog._parameters()
            except UserError as error:
                dialog.params_problem = error.args[0]
                continue
            if not dialog.action:
                continue
            shown = []
            profiles = dialog.device_ids.profile_id
            for profile in profiles[:KINDS_SHOWN]:
                device = dialog.device_ids.filtered(lambda device, profile=profile: device.profile_id == profile)[:1]
                try:
                    payload = profile.sudo()._render_command(
                        dialog.action, params, device_id=device.device_id or "", command_id=new_id()
                    )
                except RenderingError as error:
                    told = self.env["iiot.wording"]._told(error)
                    dialog.preview_problem = _("%(profile)s: %(error)s", profile=profile.name, error=told)
                    break
                shown.append(payload if len(profiles) == 1 else f"{profile.name}:\n{payload}")
            dialog.preview = "\n\n".join(shown)

    @api.depends("device_ids", "expires_in_s")
    def _compute_warning(self):
        for dialog in self:
            unable = dialog.device_ids.filtered(lambda device: device._why_no_command())
            away = (dialog.device_ids - unable).filtered(lambda device: device.connection_status != "online")
            lines = []
            for device in unable[:NAMED]:
                lines.append(_("%s: not paired or not active, the command will fail.", device.name))
            for device in away[:NAMED]:
                lines.append(
                    _(
                        "%(device)s: %(connection)s. The command waits for it %(span)s, then it expires.",
                        device=device.name,
                        connection=device.connection_text,
                        span=self.env["iiot.wording"]._duration(
                            dialog.expires_in_s or device.profile_id.sudo().command_expires_in_s
                        ),
                    )
                )
            dialog.warning = "\n".join(lines)

    def _parameters(self) -> dict[str, Any]:
        """The parameters as they were typed; ``UserError`` in words where they are no JSON object."""
        try:
            params = json_text.loads(self.params or "{}")
        except ValueError as error:
            raise UserError(_("Parameters are not JSON: %s", self.env["iiot.wording"]._told(error))) from None
        if not isinstance(params, dict):
            raise UserError(_('The parameters of a command must be a dictionary such as {"delay": 5}.'))
        return params

    def action_send(self):
        """Send it, and say where it stands."""
        self.ensure_one()
        devices = self.device_ids
        if self.expires_in_s:
            devices = devices.with_context(iiot_expires_in_s=self.expires_in_s)
        answer = devices.send_command(self.action, self._parameters())._told_to_user()
        answer["params"]["next"] = {"type": "ir.actions.act_window_close"}
        return answer


class IiotCommandDialogParam(models.TransientModel):
    """One parameter of a command, as it is typed."""

    _name = "iiot.command.dialog.param"
    _description = "IIoT Command Parameter"

    dialog_id = fields.Many2one("iiot.command.dialog", required=True, ondelete="cascade")
    name = fields.Char("Parameter", required=True)
    value = fields.Char()
    kind = fields.Char(
        compute="_compute_kind", help="What is sent: numbers, true and false are not in quotation marks."
    )

    @api.depends("value")
    def _compute_kind(self):
        for param in self:
            value = param.plain_value()
            param.kind = {bool: _("yes/no"), int: _("number"), float: _("number"), str: _("text")}.get(
                type(value), _("JSON")
            )

    def plain_value(self) -> Any:
        """The value that is meant: ``5`` is a number, ``true`` a truth value, ``"5"`` and all else a text."""
        text = self.value or ""
        try:
            return json_text.loads(text)
        except ValueError:
            return text
