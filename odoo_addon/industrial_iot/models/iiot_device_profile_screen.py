"""What the form of a configuration template tries out and counts."""

from odoo import _, api, fields, models

from ..lib import json_text, topics

SAMPLE_DEVICE = "device-01"


class IiotDeviceProfile(models.Model):
    _inherit = "iiot.device.profile"

    rule_count = fields.Integer(compute="_compute_counts")
    firmware_count = fields.Integer(compute="_compute_counts")
    preview_problem = fields.Char(compute="_compute_preview_problem")
    preview_size = fields.Char(compute="_compute_preview_problem")
    template_mark = fields.Json("Wrong Line of the Template", compute="_compute_preview_problem")
    settings_problem = fields.Char(compute="_compute_settings_problem")
    settings_mark = fields.Json("Wrong Line of the Settings", compute="_compute_settings_problem")
    sample_device_id = fields.Many2one("iiot.device", compute="_compute_sample", readonly=False)
    topic_table = fields.Json("Topics of the Sample Device", compute="_compute_topic_table")

    @api.depends("rule_ids")
    def _compute_counts(self):
        for field, model in (("rule_count", "iiot.telemetry.rule"), ("firmware_count", "iiot.firmware")):
            groups = self.env[model]._read_group([("profile_id", "in", self.ids)], ["profile_id"], ["__count"])
            counts = {profile.id: count for profile, count in groups}
            for profile in self:
                profile[field] = counts.get(profile.id, 0)

    @api.depends("preview_result")
    def _compute_preview_problem(self):
        for profile in self:
            profile.preview_problem = profile.preview_size = False
            problem, number = profile._template_problem_and_line()
            profile.template_mark = _mark(number, problem)
            try:
                params = json_text.loads(profile.preview_params or "{}")
                if not isinstance(params, dict):
                    raise ValueError(_('an object such as {"delay": 5} is expected'))
            except ValueError as error:
                told = self.env["iiot.wording"]._told(error)
                profile.preview_problem = _("The parameters are not JSON: %s", told)
                continue
            answer = profile.preview_command(profile.preview_action or "", params)
            if answer["error"] and not problem:
                number = answer["line"] if answer["code"] == "command_template" else 0
                line = _("Line %s: ", number) if number else ""
                profile.preview_problem = f"{line}{answer['error']}"
                profile.template_mark = _mark(number, answer["error"])
            elif not answer["error"]:
                profile.preview_size = _("%s bytes as a whole packet", answer["packet_bytes"])

    @api.depends("settings")
    def _compute_settings_problem(self):
        for profile in self:
            profile.settings_problem = profile.settings_mark = False
            try:
                if not isinstance(json_text.loads(profile.settings or "{}"), dict):
                    profile.settings_problem = _('An object such as {"telemetry_interval_s": 10} is expected.')
            except ValueError as error:
                told = self.env["iiot.wording"]._told(error)
                profile.settings_problem = _("This is not JSON: %s", told)
                profile.settings_mark = _mark(getattr(error, "lineno", 0), told)

    @api.depends("name")
    def _compute_sample(self):
        for profile in self:
            device = profile.sample_device_id
            if not device and profile._origin:
                device = self.env["iiot.device"].search([("profile_id", "=", profile._origin.id)], limit=1)
            profile.sample_device_id = device

    @api.depends("sample_device_id", *(f"{name}_topic_template" for name in topics.DEFAULTS))
    def _compute_topic_table(self):
        for profile in self:
            device = profile.sample_device_id.device_id or SAMPLE_DEVICE
            titles = {
                "telemetry": _("Readings"),
                "command": _("Commands"),
                "command_response": _("Answers"),
                "ota_notify": _("Update Offers"),
                "ota_status": _("Update Reports"),
            }
            rows = []
            for name in topics.DEFAULTS:
                template = profile[f"{name}_topic_template"] or ""
                problem = topics.template_error(template)
                text = self.env["iiot.wording"]._told(problem) if problem else topics.expand(template, device)
                rows.append({"cells": [titles[name], text], "look": "danger" if problem else ""})
            profile.topic_table = {"rows": rows}

    def action_open_devices(self):
        """The devices of this template."""
        return self._opened("industrial_iot.iiot_device_action")

    def action_open_rules(self):
        """The telemetry rules of this template."""
        return self._opened("industrial_iot.iiot_telemetry_rule_action")

    def action_open_firmware(self):
        """The firmware for devices of this template."""
        return self._opened("industrial_iot.iiot_firmware_action")

    def _opened(self, action):
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id(action),
            "domain": [("profile_id", "=", self.id)],
            "context": {"default_profile_id": self.id},
        }


def _mark(line: int | None, text: str | None):
    """What the editor shows beside a line."""
    return {"line": line, "text": text or ""} if line else False
