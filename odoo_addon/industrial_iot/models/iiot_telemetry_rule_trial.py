"""A rule tried while it is being typed, on readings that are kept or one that is pasted."""

from __future__ import annotations

import json
from typing import Any

from odoo import _, api, fields, models
from odoo.exceptions import UserError

from ..lib import json_text
from ..lib.domain import DomainError
from ..lib.jsonpath import PathError
from ..lib.reading_text import shown_values
from ..lib.times import parse_rfc3339
from .iiot_telemetry_rule_plan import TargetError, check_author, check_rule

READINGS = 10
DEVICES = 5
PATHS_SHOWN = 20
CELL_CHARACTERS = 80
DEFINITION = (
    *("name", "profile_id", "json_path", "target_model_id", "target_field_id", "record_by", "domain"),
    *("factor", "offset", "rounding", "only_changed"),
)
"""What the trial depends on: of the rule as it stands in the form, saved or not."""


class IiotTelemetryRule(models.Model):
    _inherit = "iiot.telemetry.rule"

    trial_device_id = fields.Many2one(
        "iiot.device",
        "Test With",
        compute="_compute_trial_device",
        readonly=False,
        help="The rule is tested with its newest readings. Empty: the newest reading of each of some devices.",
    )
    trial_payload = fields.Text("Or Paste a Reading", store=False, help="JSON as the device sends it.")
    known_paths = fields.Char(compute="_compute_known_paths", help="Paths of the values in the newest reading.")
    trial_problem = fields.Char(compute="_compute_trial")
    trial_table = fields.Json("What Would Be Written", compute="_compute_trial")

    @api.depends("profile_id")
    def _compute_trial_device(self):
        for rule in self:
            device = rule.trial_device_id
            rule.trial_device_id = device if device.profile_id == rule.profile_id else False

    @api.depends("profile_id", "trial_device_id", "trial_payload")
    def _compute_known_paths(self):
        for rule in self:
            reading = rule._trial_devices()[:1].last_values
            if (rule.trial_payload or "").strip():
                try:
                    reading = json_text.loads(rule.trial_payload)
                except ValueError:
                    reading = None
            paths = [f"$.{value['name']}" for value in shown_values(reading)] if isinstance(reading, dict) else []
            rule.known_paths = ", ".join(paths[:PATHS_SHOWN])

    @api.depends(*DEFINITION, "trial_device_id", "trial_payload")
    def _compute_trial(self):
        for rule in self:
            rule.trial_problem, rule.trial_table = False, {}
            try:
                draft = rule._drafted()
                readings = rule._trial_readings()
                rule.trial_table = (
                    rule._trial_rows(draft._preview_lines(readings)) if readings else {"note": rule._no_readings()}
                )
            except (TargetError, PathError, DomainError) as error:
                rule.trial_problem = self.env["iiot.wording"]._told(error)
            except UserError as error:
                rule.trial_problem = str(error.args[0])

    def _drafted(self):
        """This rule as a new one of whoever looks at it; raises what saving it would be refused for."""
        for field, told in (
            ("profile_id", _("Choose the configuration template.")),
            ("target_model_id", _("Choose what kind of record is written.")),
            ("target_field_id", _("Choose the field that is written.")),
        ):
            if not self[field]:
                raise UserError(told)
        values = {name: self[name].id if name.endswith("_id") else self[name] for name in DEFINITION}
        # not as the saved rule: what that has applied already is no news to it
        draft = self.new({**values, "author_id": self.env.uid, "active": True})
        check_rule(draft.sudo())
        check_author(draft._author_env(), draft.target_model, draft.target_field)
        draft._check_domain()
        return draft

    def _trial_devices(self):
        """The one that was chosen; else some that have sent something, those with a business record first."""
        if self.trial_device_id or not self.profile_id:
            return self.trial_device_id
        sending = [("profile_id", "=", self.profile_id.id), ("last_telemetry", "!=", False)]
        devices = self.env["iiot.device"].search([*sending, ("business_ref", "!=", False)], limit=DEVICES)
        if len(devices) < DEVICES:
            others = [*sending, ("business_ref", "=", False)]
            devices += self.env["iiot.device"].search(others, limit=DEVICES - len(devices))
        return devices

    def _trial_readings(self) -> list[dict[str, Any]]:
        devices = self._trial_devices()
        device = devices[:1]
        if (self.trial_payload or "").strip():
            try:
                payload = json_text.loads(self.trial_payload)
            except ValueError as error:
                told = self.env["iiot.wording"]._told(error)
                raise UserError(_("Your reading is not JSON: %s", told)) from None
            return [{"device_id": device.device_id, "payload": payload}]
        if not self.trial_device_id:
            return [_newest(each) for each in devices]
        kept = self.env["iiot.telemetry"].search(
            [("device_id", "=", device.id)], limit=READINGS, order="at desc, id desc"
        )
        if kept:
            return [
                {"device_id": device.device_id, "payload": each.payload, "at": each.at.isoformat() + "Z"}
                for each in kept
            ]
        return [_newest(device)] if device.last_telemetry else []

    def _trial_rows(self, lines):
        """What a preview told, as a table."""
        rows, wording = [], self.env["iiot.wording"]
        names = {device.device_id: device.name for device in self._trial_devices()}
        for line in lines:
            at = line["at"] and parse_rfc3339(line["at"])
            look = "" if line["writes"] else "muted" if line["matched"] and line["record"] else "danger"
            rows.append(
                {
                    "cells": [
                        *([] if self.trial_device_id else [names.get(line["device_id"]) or ""]),
                        wording._table_time(at),
                        _shown(line["value"]) if line["matched"] else _("nothing found"),
                        line["record"] or "",
                        _shown(line["old"]) if line["record"] else "",
                        _shown(line["new"]),
                        _("would be written") if line["writes"] else line["note"],
                    ],
                    "look": look,
                }
            )
        head = [_("Reading"), _("Value Found"), _("Record"), _("Present Value"), _("New Value"), ""]
        return {"head": head if self.trial_device_id else [_("Device"), *head], "rows": rows}

    def _no_readings(self):
        if not self.trial_device_id:
            return _("No device of this template has sent a reading: paste one to see what the rule would do.")
        return _("No readings of this device are kept: paste one.")


def _newest(device) -> dict[str, Any]:
    """The newest reading of a device as :meth:`preview` takes it."""
    at = device.last_telemetry.isoformat() + "Z"
    return {"device_id": device.device_id, "payload": device.last_values, "at": at}


def _shown(value: Any) -> str:
    if value is None or value is False:
        return ""
    if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], str):
        return value[1]  # a record: its name
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= CELL_CHARACTERS else text[:CELL_CHARACTERS] + "…"
