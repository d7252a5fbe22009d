"""Readings from devices into the buffer."""

from __future__ import annotations

import logging

from appliance.contract.device import PayloadError, parse_telemetry
from appliance.contract.odoo import Kind
from appliance.contract.times import ClockFlag
from appliance.services.limits import Quiet
from appliance.services.presence import PresenceService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.parked import park

log = logging.getLogger(__name__)
_TELEMETRY = int(Kind.TELEMETRY)


class TelemetryService:
    """Takes telemetry payloads; every one ends in the buffer or in the parked list."""

    def __init__(self, *, database: Database, buffer: Buffer, presence: PresenceService) -> None:
        self._database = database
        self._append = buffer.append
        self._append_readings = buffer.append_readings
        self._last_telemetry = presence.last_telemetry_ms
        self._quiet = Quiet(clock=database.clock)
        self._gateway_flag = 0
        self.readings = 0
        """Readings taken since the start, for metrics."""

    def mark(self, flag: ClockFlag) -> None:
        """From now on readings carry this, because the gateway's clock can be believed (0), or cannot."""
        self._gateway_flag = int(flag)

    def accept(self, device_id: str, payload: bytes, received_at_ms: int, receipt: object) -> None:
        """Store a payload's readings; ``receipt`` comes back after the commit of the last of them."""
        try:
            readings = parse_telemetry(payload, received_at_ms)
        except PayloadError as error:
            self._park(device_id, payload, received_at_ms, error, receipt)
            return
        if len(readings) > 1:
            self._append_readings(
                device_id, readings, received_at_ms=received_at_ms, flags=self._gateway_flag, receipt=receipt
            )
        else:
            reading = readings[0]
            self._append(
                device_id,
                _TELEMETRY,
                reading.payload,
                received_at_ms=received_at_ms,
                at_ms=reading.at_ms,
                flags=reading.flags | self._gateway_flag,
                msg_id=reading.msg_id,
                receipt=receipt,
            )
        self.readings += len(readings)
        self._last_telemetry[device_id] = received_at_ms

    def _park(self, device_id: str, payload: bytes, received_at_ms: int, error: PayloadError, receipt: object) -> None:
        code, message = error.code, error.message
        if self._quiet.due(device_id):
            log.warning("telemetry of %s is parked: %s", device_id, message)
        parking = self._database.submit(
            lambda connection: park(
                connection,
                device=device_id,
                kind=Kind.TELEMETRY,
                payload=payload,
                code=code,
                message=message,
                received_at_ms=received_at_ms,
            ),
            receipt=receipt,
        )
        parking.add_done_callback(lambda future: future.cancelled() or future.exception())
