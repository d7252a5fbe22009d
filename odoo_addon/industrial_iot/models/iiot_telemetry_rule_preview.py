from collections.abc import Mapping, Sequence
from typing import Any

from odoo import _, models
from odoo.exceptions import AccessError, UserError

from ..lib.times import parse_rfc3339, utc_now
from .iiot_telemetry_devices import load_devices
from .iiot_telemetry_rule_plan import check_author, plan_rule
from .iiot_telemetry_rule_targets import Change, Targets, is_news
from .rights import check_records

MAX_READINGS = 200


class IiotTelemetryRule(models.Model):
    _inherit = "iiot.telemetry.rule"

    def preview(self, readings):
        """What the rule would write where, for these readings one by one. Writes nothing, not even an error.

        :param readings: at most 200 ``{"device_id": the id on MQTT, "payload": any JSON, "at": RFC 3339}``; without
            ``at`` they count as sent now
        :return: a list of dictionaries, one for each reading and record, at least one for each reading: ``device_id``,
            ``at``, ``matched``, ``value`` (of the reading), ``model``, ``record_id``, ``record`` (its name), ``field``,
            ``old``, ``new``, ``writes`` (whether it would be written) and ``note`` (why not, or what is wrong)
        :raises UserError: for what is no list of readings
        """
        self.ensure_one()
        check_records(self, "read")
        if not isinstance(readings, list) or len(readings) > MAX_READINGS:
            raise UserError(_("Give a list of at most %s readings.", MAX_READINGS))
        return self._preview_lines(readings)

    def _preview_lines(self, readings):
        """:meth:`preview` of a rule that may be one that is still being typed."""
        names = {str(each.get("device_id")) for each in readings if isinstance(each, dict)}
        found = self.env["iiot.device"].search([("device_id", "in", sorted(names))])
        devices = {device.facts.device_id: device for device in load_devices(self.env, found.ids).values()}
        targets = Targets(self.sudo().env)
        return [line for reading in readings for line in self._preview_one(reading, devices, targets)]

    def preview_history(self, device_id, limit=20):
        """:meth:`preview` of the newest readings that are kept of a device (its database id), newest first."""
        self.ensure_one()
        kept = self.env["iiot.telemetry"].search(
            [("device_id", "=", device_id)], limit=min(int(limit), MAX_READINGS), order="at desc, id desc"
        )
        return self.preview(
            [
                {"device_id": each.device_id.device_id, "payload": each.payload, "at": each.at.isoformat() + "Z"}
                for each in kept
            ]
        )

    def _preview_one(self, reading: Any, devices: Mapping[str, Any], targets: Targets) -> Sequence[dict[str, Any]]:
        rule = plan_rule(self.sudo())
        line: dict[str, Any] = {
            "device_id": None,
            "at": None,
            "matched": False,
            "value": None,
            "model": rule.model,
            "field": rule.field,
            "record_id": None,
            "record": None,
            "old": None,
            "new": None,
            "writes": False,
            "note": "",
        }
        if not isinstance(reading, dict) or "payload" not in reading:
            return [{**line, "note": _("This is not a reading: give device_id and payload.")}]
        line["device_id"] = reading.get("device_id")
        if rule.problem:
            return [{**line, "note": self.env["iiot.wording"]._told(rule.problem)}]
        try:
            mark = (parse_rfc3339(reading["at"]) if "at" in reading else utc_now(), 2**62)
            line["at"] = mark[0].isoformat(timespec="milliseconds") + "Z"
            check_author(self.sudo()._author_env(), rule.model, rule.field)
            values = rule.path.values(reading["payload"])
            if not values:
                return [{**line, "note": _("The path finds nothing in this reading.")}]
            line |= {"matched": True, "value": values[0]}
            new = rule.conversion.convert(values[0])
            device = devices.get(str(line["device_id"]))
            if device is None:
                return [{**line, "new": new, "note": _("There is no such device.")}]
            change = Change(rule, device, mark, values[0], new)
            change.ids = targets.ids(change)
            if rule.link_model:
                change.new = targets.link(change)
        except UserError as error:
            return [{**line, "note": str(error.args[0])}]
        except Exception as error:  # also what a search or an extension of the target raises
            return [{**line, "note": self.env["iiot.wording"]._told(error) or type(error).__name__}]
        if not change.ids:
            return [{**line, "new": new, "note": _("No record belongs to this device.")}]
        note = self._hindrance(change)
        return [
            self._preview_record(record, change, {**line, "note": note}) for record in self._records(change, targets)
        ]

    def _records(self, change: Change, targets: Targets) -> Any:
        return targets.env_of(change.rule.author, change.device.company_id)[change.rule.model].browse(change.ids)

    def _hindrance(self, change: Change) -> str:
        """Why the rule would not run at all for that device and time."""
        if self.paused_because:
            return _("The rule is paused: %s", self.paused_because)
        if not self.active:
            return _("The rule is archived.")
        if change.device.profile_id != self.profile_id.id:
            return _("The device has another template.")
        known = self.sudo()._known_marks([change.device.id]).get((self.id, change.device.id))
        if known is not None and change.mark < known:
            return _("A newer reading has been applied already.")
        return ""

    def _preview_record(self, record: Any, change: Change, line: dict[str, Any]) -> dict[str, Any]:
        field = record._fields[change.rule.field]
        try:
            if not record.exists():
                return {**line, "record_id": record.id, "note": _("The record does not exist any more.")}
            check_records(record, "write")
            new = field.convert_to_record(field.convert_to_cache(change.new, record), record)
            writes = not line["note"] and is_news(record, change)
            line |= {"record_id": record.id, "new": _plain(new), "writes": writes}
            # what is shown is what the one who asks may see, which may be less than the author may write
            mine = record.with_env(self.env(context={**self.env.context, "allowed_company_ids": []}))
            check_records(mine, "read")
            line |= {"record": mine.display_name, "old": _plain(mine[change.rule.field])}
            if not writes and not line["note"]:
                line["note"] = _("The field has this value already.")
        except AccessError as error:
            return {**line, "note": str(error.args[0])}
        return line


def _plain(value: Any) -> Any:
    """As it goes over RPC."""
    if isinstance(value, models.BaseModel):
        return [value.id, value.display_name] if value else False
    return value.isoformat() if hasattr(value, "isoformat") else value
