from collections.abc import Mapping, Sequence
from typing import Any

from odoo import api, fields, models
from psycopg2.extras import execute_values

from ..lib.conversion import ConversionError, number
from ..lib.jsonpath import PathError
from ..lib.message import Message
from .iiot_telemetry_figures import Row, add_up


class IiotTelemetryHour(models.Model):
    """Values by hour: what the charts of one device are made of. Hours are those of UTC."""

    _name = "iiot.telemetry.hour"
    _inherit = "iiot.telemetry.figures"
    _description = "IIoT Values by Hour"
    _order = "hour desc, id desc"
    _period = "hour"

    hour = fields.Datetime(required=True, readonly=True)

    @api.model
    def _context_of(self, profile):
        """The filters that the history of devices with this template begins with."""
        metrics = profile.sudo()._metric_names()
        return {"search_default_week": 1, **({"search_default_metric": metrics[0]} if metrics else {})}

    def _take(self, messages: Sequence[Message], devices: Mapping[int, Any], plans: Mapping[int, Any]) -> None:
        """Values of the metrics that the profiles name, and their figures by hour and by day."""
        values: list[tuple[Any, ...]] = []
        hours: dict[tuple[int, str, Any], Row] = {}
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
                add_up(hours, key, [device.company_id, 1, value, value, value, value, at])
        if values:
            execute_values(
                self.env.cr._obj,
                "INSERT INTO iiot_telemetry_value (device_id, company_id, metric, at, value) VALUES %s",
                values,
                page_size=len(values),
            )
        self._add(hours)
        self.env["iiot.telemetry.day"]._take(hours)


def _number_at(path: Any, payload: Any) -> float | None:
    """The number that a metric finds in a reading; what is no number is no value, and no error either."""
    try:
        found = path.values(payload)
        return float(number(found[0])) if found and found[0] is not None else None
    except (ConversionError, PathError, OverflowError):
        return None
