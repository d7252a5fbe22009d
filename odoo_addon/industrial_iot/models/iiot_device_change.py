import json
import secrets
from typing import Any

from odoo import api, models

from ..lib import json_text

AT_A_TIME = 200
MOST_BYTES = 1 << 20
"""Of devices in one answer."""
CURSORS_KEPT = 20
_ALL = "all"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS iiot_device_change (
    id bigserial PRIMARY KEY, gateway_id integer NOT NULL, device_id integer NOT NULL, device_name varchar NOT NULL,
    number bigint, at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
);
CREATE INDEX IF NOT EXISTS iiot_device_change_new ON iiot_device_change (gateway_id) WHERE number IS NULL;
CREATE INDEX IF NOT EXISTS iiot_device_change_number ON iiot_device_change (gateway_id, number);
CREATE INDEX IF NOT EXISTS iiot_device_change_name ON iiot_device_change (gateway_id, device_name);
"""


class IiotDeviceChange(models.AbstractModel):
    """What has changed of devices, for the gateways that they are paired with, read by a cursor.

    Who changes a device adds a row without number; the gateway's next sync numbers what it sees. Syncs of a gateway
    come one after the other, so a change whose transaction ends late gets a later number and is not skipped. What a
    row tells is read when it is told. The newest row of each device stays: it knows of devices that left.

    A cursor is a number with a tag drawn by chance, one of those that were given last. One from before this database
    was restored, or after, is none of them, and starts again with all devices.
    """

    _name = "iiot.device.change"
    _description = "IIoT Device Change"

    def init(self):
        self.env.cr.execute(_SCHEMA)

    @api.model
    def _note(self, device_ids: list[int]) -> None:
        """A change of those that are paired with a gateway, or were until now."""
        if device_ids:
            self.env.cr.execute(
                "INSERT INTO iiot_device_change (gateway_id, device_id, device_name) "
                "SELECT gateway_id, id, device_id FROM iiot_device WHERE id = ANY(%s) AND gateway_id IS NOT NULL "
                "AND (paired_at IS NOT NULL OR revoked_at IS NOT NULL) ORDER BY id",
                (list(device_ids),),
            )

    @api.model
    def _forget(self, gateways) -> None:
        """Everything of gateways that are deleted."""
        self.env.cr.execute("DELETE FROM iiot_device_change WHERE gateway_id = ANY(%s)", (gateways.ids,))

    @api.model
    def _has_news(self, gateway_id: int, cursor: str | None) -> bool:
        """Whether there are changes behind the cursor that a gateway has told last."""
        number = (cursor or "").partition("-")[0]
        known = int(number) if number.isascii() and number.isdecimal() and len(number) < 18 else 0
        self.env.cr.execute(
            "SELECT EXISTS (SELECT FROM iiot_device_change WHERE gateway_id = %s AND number IS NULL) "
            "OR EXISTS (SELECT FROM iiot_device_change WHERE gateway_id = %s AND number > %s)",
            (gateway_id, gateway_id, known),
        )
        return bool(self.env.cr.fetchone()[0])

    @api.model
    def _former(self, gateway_id: int, names: list[str], days: int) -> dict[str, int]:
        """Devices by name that were this gateway's, and have left it within so many days."""
        self.env.cr.execute(
            "SELECT DISTINCT ON (change.device_name) change.device_name, change.device_id "
            "FROM iiot_device_change change "
            "JOIN iiot_device device ON device.id = change.device_id AND device.device_id = change.device_name "
            "WHERE change.gateway_id = %s AND change.device_name = ANY(%s) "
            "AND change.at > now() AT TIME ZONE 'UTC' - interval '1 day' * %s "
            "ORDER BY change.device_name, change.id DESC",
            (gateway_id, names, days),
        )
        return dict(self.env.cr.fetchall())

    @api.model
    def _since(self, gateway, cursor: str | None) -> dict[str, Any]:
        """``devices``, ``revoked``, ``cursor`` and ``more`` for the answer to a sync, made under its lock."""
        newest = self._number(gateway.id)
        report = gateway.report_id
        given: list[str] = json.loads(report.cursors_given or "[]")
        at, after, began = self._place_of(cursor, given)
        if at is not None and at == newest:
            self._keep_given(report, given, cursor, None)
            return {"devices": [], "revoked": [], "cursor": cursor, "more": False}
        if at is None:
            began = began or self._mark(newest, given)
            told, last, more = self._all(gateway, after)
            following = f"{_ALL}/{last}/{began}" if more else began
            more = more or int(began.partition("-")[0]) < newest
        else:
            told, last, more = self._changed(gateway, at)
            following = self._mark(last, given)
        mark = following.rpartition("/")[2]
        self._keep_given(report, given, cursor, mark)
        return {**told, "cursor": following, "more": more}

    # --- reading -----------------------------------------------------------------------------------------------

    def _all(self, gateway, after: int) -> tuple[dict[str, Any], int, bool]:
        """A page of everything: the paired devices, and with the first page those that are no more."""
        domain = [("gateway_id", "=", gateway.id), ("paired_at", "!=", False), ("id", ">", after)]
        devices = self.env["iiot.device"].with_context(active_test=False)
        page = devices.search(domain, order="id", limit=AT_A_TIME)
        told, taken = self._tell(page)
        revoked = []
        if not after:
            self.env.cr.execute(
                "SELECT DISTINCT change.device_name FROM iiot_device_change change WHERE change.gateway_id = %s "
                "AND NOT EXISTS (SELECT FROM iiot_device device WHERE device.gateway_id = change.gateway_id "
                "AND device.device_id = change.device_name AND device.paired_at IS NOT NULL)",
                (gateway.id,),
            )
            revoked = sorted(row[0] for row in self.env.cr.fetchall())
        last = page[taken - 1].id if taken else after
        more = taken < len(page) or len(page) == AT_A_TIME
        return {"devices": told, "revoked": revoked}, last, more

    def _changed(self, gateway, number: int) -> tuple[dict[str, Any], int, bool]:
        """A page of what has changed behind a number."""
        self.env.cr.execute(
            "SELECT number, device_id, device_name FROM iiot_device_change WHERE gateway_id = %s AND number > %s "
            "ORDER BY number LIMIT %s",
            (gateway.id, number, AT_A_TIME),
        )
        rows = self.env.cr.fetchall()
        devices = self.env["iiot.device"].with_context(active_test=False)
        found = devices.search([("id", "in", [row[1] for row in rows]), ("gateway_id", "=", gateway.id)])
        paired = {device.id: device for device in found if device.paired_at}
        devices_told, revoked, size, last = [], [], 0, number
        for position, device_id, name in rows:
            device = paired.get(device_id)
            if device is None or device.device_id != name:
                revoked.append(name)
            else:
                change = self._tell_one(device)
                size += len(json_text.dumps(change))
                if size > MOST_BYTES and devices_told:
                    return {"devices": devices_told, "revoked": revoked}, last, True
                devices_told.append(change)
            last = position
        return {"devices": devices_told, "revoked": revoked}, last, len(rows) == AT_A_TIME

    def _tell(self, devices) -> tuple[list[dict[str, Any]], int]:
        """As many as fit, and how many these are."""
        told: list[dict[str, Any]] = []
        size = 0
        for device in devices:
            change = self._tell_one(device)
            size += len(json_text.dumps(change))
            if size > MOST_BYTES and told:
                break
            told.append(change)
        return told, len(told)

    def _tell_one(self, device) -> dict[str, Any]:
        return {
            "device_id": device.device_id,
            "serial": device.serial_number,
            "enabled": device.is_active,
            "secret_version": device.secret_version,
            "config": device._wire_config(),
        }

    # --- numbers and cursors -----------------------------------------------------------------------------------

    def _number(self, gateway_id: int) -> int:
        """Number the new rows, remove what they have replaced; the newest number."""
        cr = self.env.cr
        cr.execute("SELECT coalesce(max(number), 0) FROM iiot_device_change WHERE gateway_id = %s", (gateway_id,))
        newest = cr.fetchone()[0]
        cr.execute(
            "WITH new AS (SELECT id, row_number() OVER (ORDER BY id) AS place FROM iiot_device_change "
            "WHERE gateway_id = %s AND number IS NULL) "
            "UPDATE iiot_device_change change SET number = %s + new.place FROM new WHERE change.id = new.id "
            "RETURNING change.device_name",
            (gateway_id, newest),
        )
        names = [row[0] for row in cr.fetchall()]
        if names:
            cr.execute(
                "DELETE FROM iiot_device_change older USING iiot_device_change newer WHERE older.gateway_id = %s "
                "AND older.device_name = ANY(%s) AND newer.gateway_id = older.gateway_id "
                "AND newer.device_name = older.device_name AND newer.number > older.number",
                (gateway_id, names),
            )
        return newest + len(names)

    def _place_of(self, cursor: str | None, given: list[str]) -> tuple[int | None, int, str | None]:
        """The number behind which to go on; or ``None``, the device behind which to go on with all, and since when."""
        if cursor in given:
            return int(cursor.partition("-")[0]), 0, None
        steps = (cursor or "").split("/")
        if len(steps) == 3 and steps[0] == _ALL and steps[2] in given and steps[1].isdecimal() and len(steps[1]) < 10:
            return None, int(steps[1]), steps[2]
        return None, 0, None

    def _mark(self, number: int, given: list[str]) -> str:
        """The cursor of a number: the one that was given for it, or a new one."""
        return next((mark for mark in given if mark.startswith(f"{number}-")), f"{number}-{secrets.token_hex(4)}")

    def _keep_given(self, report, given: list[str], cursor: str | None, mark: str | None) -> None:
        """Remember the cursors that may come back: the one that came, and those given since."""
        came = (cursor or "").rpartition("/")[2]
        kept = given[given.index(came) :] if came in given else given
        if mark is not None and mark not in kept:
            kept = [*kept, mark]
        kept = [*kept[:1], *kept[1:][-CURSORS_KEPT:]]
        if kept != given:
            report.cursors_given = json.dumps(kept)


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    def _note_change(self):
        """Let the gateways of these devices learn, with their next sync, that something of them has changed."""
        self.flush_recordset(["gateway_id", "device_id", "paired_at", "revoked_at"])
        self.env["iiot.device.change"]._note(self.ids)

    def write(self, vals):
        if "gateway_id" in vals:  # the one that they leave must hear of it
            self.filtered(lambda device: device.gateway_id.id != vals["gateway_id"])._note_change()
        return super().write(vals)
