"""Firmware updates: what devices report of them, stored and forwarded."""

from __future__ import annotations

import logging
from asyncio import Future

from appliance.contract.device import OtaStatus, PayloadError, parse_body
from appliance.contract.odoo import Kind
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.parked import park

log = logging.getLogger(__name__)


class OtaService:
    """Takes the status reports of devices; each ends in the buffer or in the parked list."""

    def __init__(self, *, database: Database, buffer: Buffer) -> None:
        self._database = database
        self._buffer = buffer

    def accept_status(self, device_id: str, payload: bytes, received_at_ms: int, receipt: object) -> None:
        """Store a report as the device sent it; ``receipt`` comes back after the commit, whatever the payload is."""
        try:
            parse_body(OtaStatus, payload)
        except PayloadError as error:
            self._park(device_id, payload, received_at_ms, error, receipt)
            return
        self._buffer.append(device_id, Kind.OTA_STATUS, payload, received_at_ms=received_at_ms, receipt=receipt)

    def _park(self, device_id: str, payload: bytes, received_at_ms: int, error: PayloadError, receipt: object) -> None:
        code, message = error.code, error.message
        log.warning("an OTA status of %s is parked: %s", device_id, message)
        parking = self._database.submit(
            lambda connection: park(
                connection,
                device=device_id,
                kind=Kind.OTA_STATUS,
                payload=payload,
                code=code,
                message=message,
                received_at_ms=received_at_ms,
            ),
            receipt=receipt,
        )
        parking.add_done_callback(_collected)


def _collected(parking: Future[int]) -> None:
    """An error has reached its place already: the receipt was not handed back, or the writer has ended."""
    if not parking.cancelled():
        parking.exception()
