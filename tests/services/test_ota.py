"""What devices report of their updates is stored as it is, or parked with the reason."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from appliance.services.ota import OtaService
from appliance.store.buffer import Buffer
from appliance.store.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path)
    yield database
    await database.close()


async def test_a_status_is_stored_as_the_device_sent_it_and_acknowledged_after_the_commit(database: Database) -> None:
    buffer = Buffer(database)
    await buffer.load()
    receipts: list[object] = []
    database.committed = receipts.extend
    payload = b'{ "update_id": "u-1", "state": "downloading", "progress": 40.0, "version": "2.1.0", "more": [1] }'
    OtaService(database=database).accept_status("d1", payload, 1_795_000_000_000, "receipt")
    assert receipts == []
    await buffer.wait_for_messages(0)
    [message] = (await buffer.take()).messages
    assert receipts == ["receipt"]
    assert (message.device, message.kind, message.payload) == ("d1", Kind.OTA_STATUS, payload)
    assert message.received_at_ms == 1_795_000_000_000


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"half", "not_json"),
        (b"[]", "invalid"),
        (b'{"update_id": "u-1"}', "invalid"),
        (b'{"update_id": "", "state": "failed"}', "invalid"),
        (b'{"update_id": "u-1", "state": "bored"}', "invalid"),
        (b'{"update_id": "u-1", "state": "downloading", "progress": 101}', "invalid"),
    ],
)
async def test_a_status_that_is_none_is_parked_with_the_reason_and_acknowledged(
    database: Database, payload: bytes, code: str
) -> None:
    buffer = Buffer(database)
    await buffer.load()
    receipts: list[object] = []
    database.committed = receipts.extend
    OtaService(database=database).accept_status("d1", payload, 1_795_000_000_000, "receipt")
    parked = await database.run(
        lambda connection: connection.execute("SELECT device, kind, payload, code, message FROM parked").fetchall()
    )
    assert receipts == ["receipt"]
    [(device, kind, kept, found, message)] = parked
    assert (device, kind, found) == ("d1", int(Kind.OTA_STATUS), code)
    assert message
    json.loads(kept)
    assert (await buffer.take()).messages == []
