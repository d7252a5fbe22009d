from collections.abc import Sequence
from datetime import datetime, timedelta

from odoo import api, fields, models
from odoo.tools import SQL
from psycopg2.extras import execute_values

from ..lib.message import Message
from ..lib.reading_text import reading_line, reading_pretty
from ..lib.times import utc_now
from .constraints import ensure_index
from .iiot_telemetry_devices import load_devices
from .plain_link import PlainMany2one

REMOVED_AT_ONCE = 10_000
"""Rows of one chunk: each is a transaction of its own, so that nobody waits for it."""
REMOVAL_TAKES_S = 60
"""A run of the removal ends after this; the next one goes on."""


class IiotTelemetry(models.Model):
    """A reading as the device sent it. Written by the thousand with plain SQL, never edited."""

    _name = "iiot.telemetry"
    _description = "IIoT Reading"
    _order = "at desc, id desc"
    _rec_name = "device_id"
    _log_access = False

    device_id = fields.Many2one("iiot.device", required=True, readonly=True, ondelete="cascade")
    company_id = PlainMany2one("res.company", readonly=True, help="That of the device when it sent this.")
    at = fields.Datetime("Time", required=True, readonly=True)
    received_at = fields.Datetime(readonly=True, help="When the gateway received it.")
    payload = fields.Json(readonly=True)
    payload_text = fields.Char("Values", compute="_compute_payload_text")
    payload_pretty = fields.Text("Reading", compute="_compute_payload_text")

    def init(self):
        self._make_ids_wide(self._table)
        ensure_index(self, "device_at", "(device_id, at)")
        ensure_index(self, "at_id", "(at, id)")

    def _make_ids_wide(self, table: str) -> None:
        """Numbers of 64 bits: those of 32 are used up in 17 days at 1,500 rows a second."""
        query = "SELECT data_type FROM information_schema.columns WHERE table_name = %s AND column_name = 'id'"
        self.env.cr.execute(query, (table,))
        if self.env.cr.fetchone() == ("integer",):
            self.env.cr.execute(SQL("ALTER TABLE %s ALTER COLUMN id TYPE bigint", SQL.identifier(table)))
            self.env.cr.execute(SQL("ALTER SEQUENCE %s AS bigint", SQL.identifier(f"{table}_id_seq")))

    @api.depends("payload")
    def _compute_payload_text(self):
        null = self._null_ids()
        for reading in self:
            payload = None if reading._origin.id in null else reading.payload
            reading.payload_text = reading_line(payload)
            reading.payload_pretty = reading_pretty(payload)

    def _null_ids(self) -> set[int]:
        """Readings that are ``null``: the field says ``False`` of them, as of those that are ``false``."""
        unclear = [reading._origin.id for reading in self if reading.payload is False]
        if not unclear:
            return set()
        query = "SELECT id FROM iiot_telemetry WHERE id = ANY(%s) AND payload IS DISTINCT FROM 'false'::jsonb"
        self.env.cr.execute(query, (unclear,))
        return {row[0] for row in self.env.cr.fetchall()}

    def _take(self, messages: Sequence[Message], *, extend: bool = True) -> None:
        """Readings of one gateway take effect: history, roll-up, state of the device, rules, the extension point.

        Not ``extend``: what modules do beyond that is under way already.
        """
        devices = load_devices(self.env, {message.device for message in messages})
        messages = [message for message in messages if message.device in devices]
        plans = {profile: self.env["iiot.telemetry.rule"]._plan(profile) for profile in _profiles(devices)}
        rows = [
            (message.device, devices[message.device].company_id, message.effective_at, message.received_at,
             message.payload_json)
            for message in messages
            if plans[devices[message.device].profile_id].keep_history
        ]  # fmt: skip
        if rows:
            execute_values(
                self.env.cr._obj,
                f"INSERT INTO {self._table} (device_id, company_id, at, received_at, payload) VALUES %s",
                rows,
                template="(%s, %s, %s, %s, %s::jsonb)",
                page_size=len(rows),
            )
        self.env["iiot.telemetry.hour"]._take(messages, devices, plans)
        new = self.env["iiot.device"]._take_newest(messages, devices)
        self.env["iiot.telemetry.rule"]._run(messages, devices, plans)
        if extend:
            self.env["iiot.device"]._call_extensions(messages, new)

    @api.model
    def _remove_old(self, commit: bool = True) -> int:
        """Remove what is older than the profiles say, in chunks; ``commit`` after each. The number of rows removed.

        Called by a scheduled action. Ends after a minute at the latest and lets itself be called again.
        """
        began_at = utc_now()
        removed = 0
        limited = ["|", ("history_days", ">", 0), ("rollup_days", ">", 0)]
        for profile in self.env["iiot.device.profile"].sudo().with_context(active_test=False).search(limited):
            for table, column, days in profile._kept_days():
                if not days:
                    continue
                while chunk := self._remove_chunk(table, column, profile.id, began_at - timedelta(days=days)):
                    removed += chunk
                    if commit:
                        self.env.cr.commit()  # pylint: disable=invalid-commit  # see REMOVED_AT_ONCE
                    if utc_now() - began_at > timedelta(seconds=REMOVAL_TAKES_S):
                        self.env.ref("industrial_iot.cron_remove_telemetry")._trigger()
                        return removed
        return removed

    def _remove_chunk(self, table: str, column: str, profile_id: int, before: datetime) -> int:
        self.env.cr.execute(
            SQL(
                """DELETE FROM %(table)s WHERE id = ANY(ARRAY(
                SELECT old.id FROM iiot_device d
                CROSS JOIN LATERAL
                    (SELECT t.id FROM %(table)s t WHERE t.device_id = d.id AND t.%(column)s < %(before)s
                     LIMIT %(most)s) old
                WHERE d.profile_id = %(profile)s LIMIT %(most)s))""",
                table=SQL.identifier(table),
                column=SQL.identifier(column),
                before=before,
                profile=profile_id,
                most=REMOVED_AT_ONCE,
            )
        )
        return self.env.cr.rowcount


def _profiles(devices):
    return {device.profile_id for device in devices.values()}
