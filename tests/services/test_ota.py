"""What devices report of their updates is stored as it is, or parked with the reason, and moves the update."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.contract.device import OtaState
from appliance.contract.odoo import Kind
from appliance.contract.ota import FINAL, ORDER, UpdateState
from appliance.errors import StoreUnavailableError
from tests.services.ota_kit import DEADLINES, UpdateBench, running_updates

LIFE = ["accepted", "downloading", "downloaded", "verified", "installing", "rebooting", "installed"]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[UpdateBench]:
    async with running_updates(tmp_path, ["d1", "d2"]) as bench:
        yield bench


async def delivered(bench: UpdateBench, device_id: str = "d1") -> None:
    """An update whose offer the device has acknowledged."""
    bench.broker.connect(device_id)
    await bench.order()
    bench.broker.sent[-1].ack()
    await bench.settle()
    assert await bench.state() == "delivered"


def test_the_lists_of_states_name_the_same_states() -> None:
    assert {*ORDER, *FINAL} == set(UpdateState.__args__)  # type: ignore[attr-defined]
    assert set(OtaState.__args__) <= {*ORDER, *FINAL}  # type: ignore[attr-defined]


async def test_a_status_of_an_unknown_update_is_stored_as_the_device_sent_it(bench: UpdateBench) -> None:
    payload = b'{ "update_id": "u-1", "state": "downloading", "progress": 40.0, "version": "2.1.0", "more": [1] }'
    bench.service.accept_status("d1", payload, 1_795_000_000_000, "receipt")
    assert bench.receipts == []
    await bench.settle()
    [message] = (await bench.buffer.take()).messages
    assert bench.receipts == ["receipt"]
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
        (b'{"update_id": "u-1", "state": "fetching"}', "invalid"),
        (b'{"update_id": "u-1", "state": "downloading", "progress": 101}', "invalid"),
    ],
)
async def test_a_status_that_is_none_is_parked_with_the_reason_and_acknowledged(
    bench: UpdateBench, payload: bytes, code: str
) -> None:
    bench.service.accept_status("d1", payload, 1_795_000_000_000, "receipt")
    await bench.settle()
    parked = await bench.database.run(
        lambda connection: connection.execute("SELECT device, kind, payload, code, message FROM parked").fetchall()
    )
    assert bench.receipts == ["receipt"]
    [(device, kind, kept, found, message)] = parked
    assert (device, kind, found) == ("d1", int(Kind.OTA_STATUS), code)
    assert message
    json.loads(kept)
    assert (await bench.buffer.take()).messages == []


async def test_each_report_moves_the_update_and_is_handed_on_as_it_is(bench: UpdateBench) -> None:
    await delivered(bench)
    for state in LIFE:
        await bench.report(state, version="2.1.0", note="as it is")
        assert (await bench.service.status("u1")).state == state
    assert await bench.told() == ["fetching", "queued", "offered", "delivered"]
    assert await bench.told(by=None) == LIFE
    assert await bench.history() == ["fetching", "queued", "offered", "delivered", *LIFE]
    assert await bench.state() == "installed*"
    assert bench.receipts == [f"receipt of {state}" for state in LIFE]
    messages = (await bench.buffer.take(limit=100)).messages
    assert json.loads(messages[-1].payload)["note"] == "as it is"


async def test_steps_may_be_left_out(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.report("installing")
    assert await bench.state() == "installing"
    await bench.report("installed")
    assert await bench.state() == "installed*"


async def test_there_is_no_way_back_but_every_report_is_handed_on(bench: UpdateBench) -> None:
    await delivered(bench)
    for state in ("downloaded", "downloading", "accepted", "downloaded"):
        await bench.report(state)
        assert await bench.state() == "downloaded"
    assert await bench.told(by=None) == ["downloaded", "downloading", "accepted", "downloaded"]


@pytest.mark.parametrize("final", sorted(FINAL))
async def test_a_final_state_stays_but_for_a_roll_back(bench: UpdateBench, final: str) -> None:
    await delivered(bench)
    await bench.report(final)
    for state in ("downloading", "failed", "cancelled", "installed", "already_installed"):
        await bench.report(state)
    assert (await bench.service.status("u1")).state == final
    await bench.report("rolled_back")
    status = await bench.service.status("u1")
    assert status.state == ("rolled_back" if final in ("installed", "failed", "rolled_back") else final)
    assert len(await bench.told(by=None)) == 7


async def test_a_failure_keeps_what_the_device_said(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.report("failed", error="x" * 5000)
    status = await bench.service.status("u1")
    assert (status.state, status.reason, status.settled) == ("failed", "device", True)
    assert status.error == "x" * 300


async def test_what_a_device_says_of_its_failure_forges_no_line_of_the_log(
    bench: UpdateBench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await delivered(bench)
    await bench.report("failed", error="valve\n2026-11-22 CRITICAL forged\x1b[2J\x9b2J")
    ended = [record.getMessage() for record in caplog.records if "ended: failed" in record.getMessage()]
    assert len(ended) == 1
    assert ended[0].isprintable()
    assert "valve" in ended[0]


async def test_another_device_cannot_move_it(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.report("failed", device_id="d2")
    assert await bench.state() == "delivered"
    assert await bench.told(by=None) == ["failed"]


async def test_a_report_stands_for_an_acknowledgement_that_was_lost(bench: UpdateBench) -> None:
    bench.broker.connect("d1")
    await bench.order()
    assert await bench.state() == "offered"
    await bench.report("downloading", progress=10)
    bench.broker.disconnect("d1")
    bench.broker.connect("d1")
    await bench.settle()
    assert await bench.state() == "downloading"
    assert len(bench.broker.sent) == 1


async def test_the_version_that_runs_is_noted_with_the_device(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.report("downloading", version="1.0.0")
    assert bench.devices.versions == {}
    await bench.report("installed", version="2.1.0-b7")
    assert bench.devices.versions == {"d1": "2.1.0-b7"}
    await bench.report("rolled_back", version="1.0.0")
    assert bench.devices.versions == {"d1": "1.0.0"}


async def test_an_installed_without_version_means_the_one_that_was_ordered(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.report("already_installed")
    assert bench.devices.versions == {"d1": "2.1.0"}


async def test_a_version_that_could_not_be_noted_is_noted_after_a_restart(bench: UpdateBench) -> None:
    await delivered(bench)
    bench.devices.noting = StoreUnavailableError("full")
    await bench.report("installed", version="2.1.0")
    await bench.restart()
    assert bench.devices.versions == {}
    bench.devices.noting = None
    await bench.service.note_versions()
    await bench.settle()
    assert bench.devices.versions == {"d1": "2.1.0"}
    bench.devices.versions.clear()
    await bench.restart()
    assert bench.devices.versions == {}


@pytest.mark.parametrize("state", ["fetching", "queued", "offered", "delivered", *LIFE[:-1], "cancelling"])
async def test_each_state_ends_by_itself_and_odoo_is_told(bench: UpdateBench, state: str) -> None:
    if state in ("fetching", "queued"):
        bench.firmware.at_once = state == "queued"
        await bench.order()
    elif state == "offered":
        bench.broker.connect("d1")
        await bench.order()
    else:
        await delivered(bench)
        if state in LIFE:
            await bench.report(state)
        elif state == "cancelling":
            await bench.service.cancel("u1")
    assert await bench.state() == state
    status = await bench.service.status("u1")
    assert status.deadline_at is not None
    wait_ms = {
        "fetching": DEADLINES.fetch_ms,
        **dict.fromkeys(("queued", "offered", "cancelling"), DEADLINES.offer_ms),
        **dict.fromkeys(("delivered", "accepted", "downloading"), DEADLINES.download_ms),
    }.get(state, DEADLINES.install_ms)
    await bench.pass_time(wait_ms / 1000 - 0.5)
    assert await bench.state() == state
    await bench.pass_time(1)
    assert await bench.state() == "failed/timeout*"
    assert (await bench.told())[-1] == "failed"
    assert (await bench.service.status("u1")).error == f"it was {state} for too long"
    assert bench.firmware.needed == set()


async def test_progress_gives_more_time_but_not_without_end(bench: UpdateBench) -> None:
    await delivered(bench)
    given_s = DEADLINES.download_ms / 1000
    await bench.report("downloading", progress=0)
    for percent in (10, 20, 30):
        await bench.pass_time(given_s * 0.9)
        await bench.report("downloading", progress=percent)
    assert await bench.state() == "downloading"
    for step in range(12):
        await bench.pass_time(given_s * 0.1)
        await bench.report("downloading", progress=30 + step / 100)
    assert await bench.state() == "failed/timeout*"
    assert await bench.history() == ["fetching", "queued", "offered", "delivered", "downloading", "failed"]


async def test_what_the_appliance_concluded_yields_to_what_the_device_says_later(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.report("installing")
    await bench.pass_time(DEADLINES.install_ms / 1000 + 1)
    assert await bench.state() == "failed/timeout*"
    await bench.report("rebooting")
    assert await bench.state() == "failed/timeout*"
    await bench.report("installed", version="2.1.0")
    status = await bench.service.status("u1")
    assert (status.state, status.history[-1].late, status.error) == ("installed", True, None)
    assert bench.devices.versions == {"d1": "2.1.0"}


async def test_wall_clock_jumps_and_reboots_end_nothing(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.report("downloading", progress=5)
    bench.clock.jump(10 * 365 * 86_400)
    await bench.pass_time(1)
    assert await bench.state() == "downloading"
    await bench.restart(jump_s=-40 * 365 * 86_400, reboot=True)
    assert await bench.state() == "downloading"
    await bench.pass_time(DEADLINES.download_ms / 1000 + 1)
    assert await bench.state() == "failed/timeout*"


async def test_reports_that_come_before_the_file_is_read_wait_for_it(bench: UpdateBench) -> None:
    await delivered(bench)
    await bench.stop()
    await bench.start(run=False)
    await bench.report("downloading")
    assert "receipt of downloading" not in bench.receipts
    await bench.run()
    assert "receipt of downloading" in bench.receipts
    assert await bench.state() == "downloading"


async def test_old_updates_are_forgotten_and_open_ones_are_not(tmp_path: Path) -> None:
    async with running_updates(tmp_path, ["d1", "d2"], keep_settled=2, keep_settled_s=1000) as bench:
        for number in range(5):
            await bench.order(f"u{number}")
            await bench.service.cancel(f"u{number}")
        await bench.order("open", "d2")
        await bench.pass_time(70)
        await bench.service._prune()
        rows = await bench.database.run(
            lambda connection: connection.execute("SELECT update_id FROM updates ORDER BY position").fetchall()
        )
        assert rows == [("u3",), ("u4",), ("open",)]
        await bench.pass_time(999)
        bench.service._next_prune_ms = 0
        await bench.service._prune()
        rows = await bench.database.run(
            lambda connection: connection.execute("SELECT update_id FROM updates ORDER BY position").fetchall()
        )
        assert rows == [("open",)]
