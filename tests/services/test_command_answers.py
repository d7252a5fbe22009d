"""What devices answer: matched, recorded, parked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from tests.services.command_kit import Bench, running_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path, ["d1", "d2"]) as bench:
        yield bench


async def test_an_answer_without_id_belongs_to_the_oldest_unanswered_command(bench: Bench) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    ids = [await bench.send() for _ in range(3)]
    await bench.respond("d1", {"command_id": ids[0], "status": "ok"})
    await bench.respond("d1", b' {"status": "ok", "result": 1.50} ')
    await bench.respond("d1", {"command_id": None, "status": "error"})
    assert [await bench.state(each) for each in ids] == ["done*", "done*", "failed/device*"]
    recorded = [m.payload for m in (await bench.buffer.take()).messages if m.kind is Kind.COMMAND_RESPONSE]
    assert recorded[1] == b' {"status": "ok", "result": 1.50,"command_id":"' + ids[1].encode() + b'"}'
    assert json.loads(recorded[2]) == {"command_id": ids[2], "status": "error"}


async def test_an_answer_to_another_devices_command_changes_nothing_and_is_recorded(bench: Bench) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    command_id = await bench.send("d1")
    await bench.respond("d2", {"command_id": command_id, "status": "ok"}, "receipt")
    await bench.respond("d2", {"status": "ok"})
    await bench.respond("d1", {"command_id": "unheard-of", "status": "ok", "matched": True})
    assert await bench.state(command_id) == "delivered"
    assert await bench.messages(Kind.COMMAND_RESPONSE) == [
        {"command_id": command_id, "status": "ok", "matched": False},
        {"status": "ok", "matched": False},
        {"command_id": "unheard-of", "status": "ok", "matched": False},
    ]
    assert "receipt" in bench.receipts


async def test_an_answer_to_a_command_that_was_never_written_is_no_answer(bench: Bench) -> None:
    command_id = await bench.send()
    await bench.respond("d1", {"command_id": command_id, "status": "ok"})
    await bench.respond("d1", {"status": "ok"})
    assert await bench.state(command_id) == "queued"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"done!", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"", "not_json"),
        (b'{"status": NaN}', "not_json"),
        (b"[]", "invalid"),
        (b'{"status": "finished"}', "invalid"),
        (b'{"command_id": 7, "status": "ok"}', "invalid"),
        (b'{"command_id": "", "status": "ok"}', "invalid"),
        (b'{"command_id": "' + b"x" * 65 + b'", "status": "ok"}', "invalid"),
    ],
)
async def test_an_answer_that_is_none_is_parked_and_acknowledged(bench: Bench, payload: bytes, code: str) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    command_id = await bench.send()
    await bench.respond("d1", payload, "receipt")
    assert bench.receipts == ["receipt"]
    assert bench.on_disk("SELECT device, kind, code FROM parked") == [("d1", int(Kind.COMMAND_RESPONSE), code)]
    assert await bench.state(command_id) == "delivered"


@pytest.mark.parametrize(
    "text",
    [
        '{"status": "ok", "command_id": "\\ud800"}',
        '{"status": "ok", "result": ' + "9" * 5000 + "}",
        '{"status": "ok", "command_id": null, "result": 1' + "0" * 400 + "}",
        '{"status": "ok", "command_id": null, "result": ' + "[" * 180 + "]" * 180 + "}",
        '{"status": "ok", "result": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"status": "ok", "result": "\\u0000\\ud83d\\ude00"}',
        '{"status": "error", "error": "\\ud800"}',
    ],
)
async def test_a_strange_answer_is_stored_or_parked_and_harms_nobody(bench: Bench, text: str) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    await bench.send()
    await bench.respond("d1", text.encode(), "receipt")
    assert bench.receipts == ["receipt"]
    for message in (await bench.buffer.take()).messages:
        json.loads(message.payload)
    await bench.send()
    assert len(bench.broker.sent) == 2


async def test_the_receipt_of_an_answer_comes_after_its_commit(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send()
    seen: list[tuple[str, list[tuple[str]]]] = []
    bench.database.committed = lambda receipts: seen.append(
        (receipts[0], bench.on_disk("SELECT state FROM outbox WHERE command_id = ?", command_id))
    )
    await bench.respond("d1", {"status": "ok"}, "receipt")
    assert seen == [("receipt", [("done",)])]


async def test_a_long_answer_goes_to_odoo_whole_and_leaves_its_size_with_the_command(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send()
    await bench.respond("d1", {"command_id": command_id, "status": "ok", "result": "x" * 5000})
    status = await bench.service.status(command_id)
    assert status.response is None
    assert status.response_bytes is not None
    assert status.response_bytes > 5000
    assert len((await bench.messages(Kind.COMMAND_RESPONSE))[0]["result"]) == 5000
