from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import pytz
from odoo import api, fields, models

from .constraints import ensure_index
from .iiot_telemetry_figures import Row, add_up

FEW_DEVICES = 50
"""So many at most begin as a line each of the table."""


class IiotTelemetryDay(models.Model):
    """Values by day: what graph and table over all devices are made of.

    A day begins at midnight where the company is (``res.company.iiot_tz``). It is made of whole hours of UTC: where the
    clock differs by half an hour its first half hour counts to the day before.
    """

    _name = "iiot.telemetry.day"
    _inherit = "iiot.telemetry.figures"
    _description = "IIoT Values by Day"
    _order = "day desc, id desc"
    _period = "day"

    day = fields.Date(required=True, readonly=True)

    def init(self):
        ensure_index(self, "metric_day", "(metric, day)")
        return super().init()

    @api.model
    def action_open_history(self):
        """The history with one value to begin with: those of different units make no sense in one graph."""
        action = self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_telemetry_day_action")
        newest = self.search([], limit=1)
        metrics = newest.device_id.profile_id.sudo()._metric_names()
        few = self.env["iiot.device"].search_count([], limit=FEW_DEVICES + 1) <= FEW_DEVICES
        return {
            **action,
            "context": {
                "search_default_month": 1,
                "pivot_row_groupby": ["device_id"] if few else ["day:day"],
                **({"search_default_metric": metrics[0]} if metrics else {}),
            },
        }

    def _take(self, hours: Mapping[tuple[int, str, datetime], Row]) -> None:
        """Add what came in these hours to their days."""
        companies = self.env["res.company"].sudo().browse({row[0] for row in hours.values()})
        zones = {company.id: pytz.timezone(company.iiot_tz or "UTC") for company in companies}
        known: dict[tuple[int, datetime], date] = {}
        days: dict[tuple[int, str, Any], Row] = {}
        for (device, metric, hour), row in hours.items():
            if (day := known.get((row[0], hour))) is None:
                day = known[row[0], hour] = _day_of(hour, zones[row[0]])
            add_up(days, (device, metric, day), row)
        self._add(days)

    @api.model
    def _count_anew(self) -> None:
        """Make the days of companies whose time zone has changed, out of their hours. A scheduled action.

        Readings that come meanwhile wait until it is done: the table is locked before anything is looked at.
        """
        companies = self.env["res.company"].sudo().with_context(active_test=False)
        every = companies.search([])  # pylint: disable=no-search-all  # no domain compares two fields
        for company in every.filtered(lambda company: company.iiot_tz != company.iiot_days_tz):
            self._begin_locked()
            zone = company.iiot_tz
            self.env.cr.execute(f"DELETE FROM {self._table} WHERE company_id = %s", (company.id,))
            self.env.cr.execute(
                f"""INSERT INTO {self._table} (device_id, metric, day, company_id, readings, total, average,
                                               minimum, maximum, last, last_at)
                    SELECT device_id, metric,
                           least(greatest((hour AT TIME ZONE 'UTC' AT TIME ZONE %s)::date, %s), %s) AS day, company_id,
                           sum(readings), sum(total), sum(total) / sum(readings), min(minimum), max(maximum),
                           (array_agg(last ORDER BY last_at DESC))[1], max(last_at)
                    FROM iiot_telemetry_hour WHERE company_id = %s GROUP BY device_id, metric, day, company_id""",
                (zone, date.min, date.max, company.id),
            )
            company.iiot_days_tz = zone
            self.env.flush_all()

    def _begin_locked(self) -> None:
        """A new transaction that nobody adds figures beside."""
        self.env.flush_all()
        self.env.cr.commit()  # pylint: disable=invalid-commit  # the scheduled action has it for itself
        self.env.invalidate_all()
        self.env.cr.execute(f"LOCK TABLE {self._table} IN EXCLUSIVE MODE")


def _day_of(hour: datetime, zone: Any) -> date:
    """The day in ``zone`` of an hour of UTC."""
    try:
        return pytz.utc.localize(hour).astimezone(zone).date()
    except OverflowError:  # the first or the last day of the calendar
        return hour.date()
