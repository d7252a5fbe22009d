from collections.abc import Mapping
from typing import Any

from odoo import fields, models
from odoo.tools import SQL
from psycopg2.extras import execute_values

from .constraints import ensure_index
from .plain_link import PlainMany2one, summed_up_by

Row = list[Any]
"""Company, number, sum, minimum, maximum, last value and its time, of one device's metric in one period."""


class IiotTelemetryFigures(models.AbstractModel):
    """The readings of a device's metric within a period in a few figures; a model for each length of period.

    Kept up in the transaction that stores the readings. Each one counts in the period of its own time, however late it
    comes.
    """

    _name = "iiot.telemetry.figures"
    _description = "IIoT Values of a Period"
    _rec_name = "metric"
    _log_access = False
    _period = ""
    """The field with the beginning of the period."""

    device_id = fields.Many2one("iiot.device", required=True, readonly=True, ondelete="cascade")
    company_id = PlainMany2one("res.company", readonly=True)
    metric = fields.Char(required=True, readonly=True)
    readings = fields.Integer(readonly=True)
    total = fields.Float("Sum", readonly=True)
    average = fields.Float(readonly=True, **summed_up_by("avg"))
    minimum = fields.Float(readonly=True, **summed_up_by("min"))
    maximum = fields.Float(readonly=True, **summed_up_by("max"))
    last = fields.Float(readonly=True, help="The value of the newest reading.", **summed_up_by(None))
    last_at = fields.Datetime("Time of Last", readonly=True)

    def init(self):
        if self._abstract:
            return
        self.env["iiot.telemetry"]._make_ids_wide(self._table)
        ensure_index(self, f"device_metric_{self._period}", f"(device_id, metric, {self._period})", unique=True)
        ensure_index(self, f"{self._period}_id", f"({self._period}, id)")

    def _read_group_select(self, aggregate_spec, query):
        """The average of a group is that of all its readings: a period with many counts for more than one with few."""
        selected = super()._read_group_select(aggregate_spec, query)
        if aggregate_spec != "average:avg":
            return selected
        total, readings = (self._field_to_sql(self._table, name, query) for name in ("total", "readings"))
        average = SQL("SUM(%s) / NULLIF(SUM(%s), 0)", total, readings)
        return (average, ["total", "readings"]) if isinstance(selected, tuple) else average  # 17 wants the fields too

    def _add(self, rows: Mapping[tuple[int, str, Any], Row]) -> None:
        """Add figures to those that are known, with one statement. Keys: device, metric, beginning of the period."""
        if not rows:
            return
        # in the order of the key, so that two transactions never wait for each other in a circle
        execute_values(
            self.env.cr._obj,
            f"""INSERT INTO {self._table} AS known
                (device_id, metric, {self._period}, company_id, readings, total, minimum, maximum, last, last_at,
                 average)
                VALUES %s
                ON CONFLICT (device_id, metric, {self._period}) DO UPDATE SET
                    readings = known.readings + excluded.readings,
                    total = known.total + excluded.total,
                    average = (known.total + excluded.total) / (known.readings + excluded.readings),
                    minimum = least(known.minimum, excluded.minimum),
                    maximum = greatest(known.maximum, excluded.maximum),
                    last = CASE WHEN excluded.last_at >= known.last_at THEN excluded.last ELSE known.last END,
                    last_at = greatest(known.last_at, excluded.last_at)""",
            [(*key, *row, row[2] / row[1]) for key, row in sorted(rows.items())],
            page_size=len(rows),
        )


def add_up(rows: dict[tuple[int, str, Any], Row], key: tuple[int, str, Any], more: Row) -> None:
    """Add figures to those of ``key``; of two that are equally new the later one is the last."""
    if (row := rows.get(key)) is None:
        rows[key] = list(more)
        return
    row[1] += more[1]
    row[2] += more[2]
    row[3] = min(row[3], more[3])
    row[4] = max(row[4], more[4])
    if more[6] >= row[6]:
        row[5:] = more[5:]
