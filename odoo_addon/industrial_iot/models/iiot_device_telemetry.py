import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from odoo import _, api, models
from odoo.exceptions import ValidationError
from psycopg2.extras import execute_values

from ..lib.batch import storable_json
from ..lib.message import Message
from ..lib.problems import RejectedError
from ..lib.times import utc_now
from .failures import is_transient
from .rights import check_records

_logger = logging.getLogger(__name__)


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    def process_telemetry_data(self, telemetry_data):
        """A reading of this device takes effect. **Modules extend this** to act on readings::

            class Device(models.Model):
                _inherit = "iiot.device"

                def process_telemetry_data(self, telemetry_data):
                    super().process_telemetry_data(telemetry_data)
                    if telemetry_data.get("temperature", 0) > 80:
                        self.send_command("activate_cooling", target_temp=70)

        It is called for each reading that an appliance delivers, after history and rules, on one device. The context
        says more: ``iiot_reading_at`` is the time of the reading, and ``iiot_reading_is_new`` is false for one that is
        older than what is known of the device already, as after a time without connection. An error in an extension
        undoes what that extension did and is logged; the reading stays.

        Called from Python it takes the reading as one that the device sends now.

        :param telemetry_data: a dictionary; a reading that is none comes as ``{"value": …}``
        """
        for device in self:
            if self.env.context.get("iiot_reading_of") == device.id:
                continue  # the batch that calls has done all that is to be done here
            now = utc_now()
            try:
                text = storable_json(telemetry_data)
            except RejectedError as error:
                told = self.env["iiot.wording"]._told(error)
                raise ValidationError(_("The reading cannot be stored: %s", told)) from None
            message = Message(
                seq=0,
                device=device.id,
                device_name=device.device_id,
                kind="telemetry",
                at=now,
                received_at=now,
                effective_at=now,
                lane="live",
                payload=telemetry_data,
                payload_json=text,
            )
            check_records(device, "write")
            # the extensions are at work already: this was called by the last of them
            self.env["iiot.telemetry"].sudo()._take([message], extend=False)

    @api.model
    def _is_extended(self) -> bool:
        """Whether any module extends :meth:`process_telemetry_data`: where none does its calls cost nothing."""
        method = getattr(type(self), "process_telemetry_data", None)
        return method is not IiotDevice.process_telemetry_data

    def _call_extensions(self, messages: Sequence[Message], new: Collection[int]) -> None:
        """Call what modules have made of :meth:`process_telemetry_data`; ``new``: ids (Python's) of new messages."""
        if not self._is_extended():
            return
        devices = self.browse({message.device for message in messages})
        for message in messages:
            device = (
                devices.browse(message.device)
                .with_prefetch(devices._ids)
                .with_context(
                    iiot_reading_of=message.device,
                    iiot_reading_at=message.effective_at,
                    iiot_reading_is_new=id(message) in new,
                )
            )
            payload = message.payload if isinstance(message.payload, dict) else {"value": message.payload}
            try:
                with self.env.cr.savepoint():
                    device.process_telemetry_data(payload)
            except Exception as error:
                if is_transient(error):
                    raise  # the whole request is repeated
                _logger.exception("An extension of process_telemetry_data failed for %s", message.device_name)

    def _take_newest(self, messages: Sequence[Message], devices: Mapping[int, Any]) -> Collection[int]:
        """Note the newest reading of each device, if it is newer than what is known; a first one makes it active.

        Returns the ids (Python's) of the messages that were not older than what was known before the batch.
        """
        newest: dict[int, Message] = {}
        for message in messages:
            known = newest.get(message.device)
            if known is None or (message.effective_at, message.seq) >= (known.effective_at, known.seq):
                newest[message.device] = message
        if not newest:
            return ()
        states = self.env["iiot.device.state"]
        states.flush_model(["last_telemetry", "last_values", "last_seen"])
        rows = sorted(
            (devices[device].state_id, message.effective_at, message.seq, message.payload_json, message.received_at)
            for device, message in newest.items()
        )
        execute_values(
            self.env.cr._obj,
            """WITH new (id, at, seq, payload, received_at) AS (VALUES %s),
                    known AS (SELECT s.id, s.last_telemetry AS at, s.last_telemetry_seq AS seq FROM iiot_device_state s
                              WHERE s.id IN (SELECT id FROM new) ORDER BY s.id FOR NO KEY UPDATE),
                    changed AS (UPDATE iiot_device_state s SET
                        last_seen = greatest(s.last_seen, new.received_at),
                        last_telemetry = CASE WHEN late THEN s.last_telemetry ELSE new.at END,
                        last_telemetry_seq = CASE WHEN late THEN s.last_telemetry_seq ELSE new.seq END,
                        last_values = CASE WHEN late THEN s.last_values ELSE new.payload END
                    FROM new JOIN known USING (id), LATERAL
                        (SELECT coalesce((new.at, new.seq) < (known.at, coalesce(known.seq, 0)), false)) t (late)
                    WHERE s.id = new.id)
               SELECT id, at, seq FROM known""",
            rows,
            template="(%s, %s, %s::bigint, %s::jsonb, %s)",
            page_size=len(rows),
        )
        known_before = {state: (at, seq or 0) for state, at, seq in self.env.cr.fetchall() if at is not None}
        states.invalidate_model(["last_telemetry", "last_values", "last_seen"])
        self.invalidate_model(["last_telemetry", "last_values", "last_seen"])
        self.browse(device for device in newest if devices[device].lifecycle == "provisioned")._become_active()
        oldest = (datetime.min, 0)
        return {
            id(message)
            for message in messages
            if (message.effective_at, message.seq) >= known_before.get(devices[message.device].state_id, oldest)
        }

    def _become_active(self) -> None:
        """The first message has come: a device that was provisioned is active."""
        first = self.filtered(lambda device: device.state == "provisioned")
        if first:
            first.with_context(tracking_disable=True).write({"state": "active"})


class IiotDeviceState(models.Model):
    _inherit = "iiot.device.state"

    def init(self):
        # what orders readings of the same time; 64 bits, which no field has
        self.env.cr.execute("ALTER TABLE iiot_device_state ADD COLUMN IF NOT EXISTS last_telemetry_seq bigint")
        return super().init()
