from collections.abc import Mapping, Sequence
from typing import Any

from odoo import api, fields, models
from psycopg2.extras import execute_values

from ..lib.conversion import ConversionError, number
from ..lib.jsonpath import PathError
from ..lib.message import Message
from .constraints import ensure_index
from .plain_link import PlainMany2one, summed_up_by


class IiotTelemetryHour(models.Model):
    """The readings of a device's metric within one hour in a few figures: what lists and graphs over all are made of.

    Kept up in the transaction that stores the readings. It counts each one in the hour of its own time, however late it
    comes.
    """

    _name = "iiot.telemetry.hour"
    _description = "IIoT Values by Hour"
    _order = "hour desc, id desc"
    _rec_name = "metric"
    _log_access = False

    device_id = fields.Many2one("iiot.device", required=True, readonly=True, ondelete="cascade")
    company_id = PlainMany2one("res.company", readonly=True)
    metric = fields.Char(required=True, readonly=True)
    hour = fields.Datetime(required=True, readonly=True)
    readings = fields.Integer(readonly=True)
    total = fields.Float("Sum", readonly=True)
    average = fields.Float(readonly=True, **summed_up_by("avg"))
    minimum = fields.Float(readonly=True, **summed_up_by("min"))
    maximum = fields.Float(readonly=True, **summed_up_by("max"))
    last = fields.Float(readonly=True, **summed_up_by("avg"), help="The value of the newest reading.")
    last_at = fields.Datetime("Time of Last", readonly=True)

    @api.model
    def action_open_history(self):
        """The history with one value to begin with: those of different units make no sense in one graph."""
        action = self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_telemetry_hour_action")
        newest = self.search([], limit=1, order="hour desc, id desc")
        return {**action, "context": self._context_of(newest.device_id.profile_id)}

    @api.model
    def _context_of(self, profile):
        metrics = profile.sudo()._metric_names()
        return {"search_default_week": 1, **({"search_default_metric": metrics[0]} if metrics else {})}

    def init(self):
        self.env["iiot.telemetry"]._make_ids_wide(self._table)
        ensure_index(self, "device_metric_hour", "(device_id, metric, hour)", unique=True)
        ensure_index(self, "hour_id", "(hour, id)")

    def _take(self, messages: Sequence[Message], devices: Mapping[int, Any], plans: Mapping[int, Any]) -> None:
        """Values of the metrics that the profiles name, and the figures of their hours, with one statement each."""
        values: list[tuple[Any, ...]] = []
        hours: dict[tuple[int, str, Any], list[Any]] = {}
        for message in messages:
            device = devices[message.device]
            plan = plans[device.profile_id]
            for metric, path in plan.metrics:
                value = _number_at(path, message.payload)
                if value is None:
                    continue
                at = message.effective_at
                if plan.keep_history:
                    values.append((message.device, device.company_id, metric, at, value))
                key = (message.device, metric, at.replace(minute=0, second=0, microsecond=0))
                if (row := hours.get(key)) is None:
                    hours[key] = [device.company_id, 1, value, value, value, value, at]
                    continue
                row[1] += 1
                row[2] += value
                row[3] = min(row[3], value)
                row[4] = max(row[4], value)
                if at >= row[6]:
                    row[5:] = value, at
        if values:
            execute_values(
                self.env.cr._obj,
                "INSERT INTO iiot_telemetry_value (device_id, company_id, metric, at, value) VALUES %s",
                values,
                page_size=len(values),
            )
        if hours:
            # in the order of the key, so that two transactions never wait for each other in a circle
            execute_values(
                self.env.cr._obj,
                f"""INSERT INTO {self._table} AS known
                    (device_id, metric, hour, company_id, readings, total, minimum, maximum, last, last_at, average)
                    VALUES %s
                    ON CONFLICT (device_id, metric, hour) DO UPDATE SET
                        readings = known.readings + excluded.readings,
                        total = known.total + excluded.total,
                        average = (known.total + excluded.total) / (known.readings + excluded.readings),
                        minimum = least(known.minimum, excluded.minimum),
                        maximum = greatest(known.maximum, excluded.maximum),
                        last = CASE WHEN excluded.last_at >= known.last_at THEN excluded.last ELSE known.last END,
                        last_at = greatest(known.last_at, excluded.last_at)""",
                [(*key, *row, row[2] / row[1]) for key, row in sorted(hours.items())],
                page_size=len(hours),
            )


def _number_at(path: Any, payload: Any) -> float | None:
    """The number that a metric finds in a reading; what is no number is no value, and no error either."""
    try:
        found = path.values(payload)
        return float(number(found[0])) if found and found[0] is not None else None
    except (ConversionError, PathError, OverflowError):
        return None
