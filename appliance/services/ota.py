"""Firmware updates: what devices report of them, stored and forwarded."""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Callable
from functools import partial
from sqlite3 import Connection

from appliance.contract.device import OtaStatus, PayloadError, parse_body
from appliance.contract.odoo import Kind
from appliance.services.limits import Quiet
from appliance.store.buffer import add_message
from appliance.store.database import Database
from appliance.store.parked import park

log = logging.getLogger(__name__)


class OtaService:
    """Takes the status reports of devices; each ends in the buffer or in the parked list."""

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self._quiet = Quiet(clock=database.clock)

    def accept_status(self, device_id: str, payload: bytes, received_at_ms: int, receipt: object) -> None:
        """Store a report as the device sent it; ``receipt`` comes back after the commit, whatever the payload is."""
        job: Callable[[Connection], int] = partial(
            add_message, device=device_id, kind=Kind.OTA_STATUS, payload=payload, received_at_ms=received_at_ms
        )
        try:
            parse_body(OtaStatus, payload)
        except PayloadError as error:
            if self._quiet.due(device_id):
                log.warning("an OTA status of %s is parked: %s", device_id, error.message)
            job = partial(
                park,
                device=device_id,
                kind=Kind.OTA_STATUS,
                payload=payload,
                code=error.code,
                message=error.message,
                received_at_ms=received_at_ms,
            )
        self._database.submit(job, receipt=receipt).add_done_callback(_collected)


def _collected(stored: Future[int]) -> None:
    """Where it could not be stored the database has withheld the receipt: the device will say it again."""
    if not stored.cancelled():
        stored.exception()
