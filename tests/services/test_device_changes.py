"""What Odoo changes of devices: on disk when it is acknowledged, one bad change costs no other, nothing gets lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.device import ConfigRequest
from appliance.contract.sync import DeviceChange
from appliance.errors import StoreUnavailableError, UnknownDeviceError
from appliance.services.device_changes import CHANGES_PER_JOB
from appliance.store import changes_aside
from tests.services.config_kit import Box, change, opened
from tests.store.support import ManualClock

THIEF = {"config_version": 2, "topics": {"telemetry": "telemetry/a/{device}"}}
"""Device ``data`` with this would have a topic of device ``a``."""


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with opened(tmp_path) as box:
        yield box


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


# --- changes -------------------------------------------------------------------------------------------------


async def test_a_change_is_on_disk_when_apply_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.pair()
        await box.change(config={"config_version": 2}, enabled=False, secret_version=3)
        device = box.device()
    async with opened(tmp_path) as box:
        assert box.device() == device
        assert (device.config_version, device.enabled, device.secret_version, device.generation) == (2, False, 3, 2)


async def test_changes_may_come_again(box: Box) -> None:
    await box.pair()
    changes = [change(config={"config_version": 2}, secret_version=1)]
    await box.changes.apply(changes, [])
    before = box.device()
    for _ in range(3):
        await box.changes.apply(changes, [])
    assert box.device() is before


async def test_a_change_without_configuration_leaves_it(box: Box) -> None:
    await box.pair(config_version=4, settings={"a": 1})
    await box.change(enabled=False)
    assert (box.device().config_version, box.device().config.settings) == (4, {"a": 1})


async def test_two_changes_of_one_device_in_one_answer_end_as_the_later_one_says(box: Box) -> None:
    await box.pair()
    await box.changes.apply([change(config={"config_version": 2}, enabled=False), change(secret_version=1)], [])
    assert (box.device().config_version, box.device().enabled, box.device().generation) == (2, True, 2)


async def test_one_bad_change_stops_no_other_and_odoo_is_told_once(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    await box.pair("a", "SN-1")
    await box.pair("data", "SN-2")
    await box.pair("c", "SN-3")
    changes = [change("data", config=THIEF), change("a", config={"config_version": 9}), change("c", enabled=False)]
    for _ in range(3):
        await box.changes.apply(changes, [])
    assert (box.device("a").config_version, box.device("c").enabled) == (9, False)
    assert box.device("data").config_version == 1
    reason = "its topics cannot be used: telemetry/a/data belongs to device a"
    assert box.changes.refusal("data") == reason
    assert caplog.text.count("the new configuration of data is refused") == 1
    assert box.changes.refused == 1
    assert await box.said("device_change_refused") == [
        {"event": "device_change_refused", "device_id": "data", "config_version": 2, "reason": reason}
    ]


async def test_a_refused_configuration_is_taken_over_when_its_topics_are_free_and_survives_a_restart(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as box:
        await box.pair("a", "SN-1")
        await box.pair("data", "SN-2")
        await box.change("data", config=THIEF)
        await box.changes.retry()
        assert box.device("data").config_version == 1
    async with opened(tmp_path) as box:
        await box.changes.apply([], ["a"])
        await box.changes.retry()
        assert (box.device("data").config_version, box.device("data").topics.telemetry) == (2, "telemetry/a/data")
        assert (box.changes.refusal("data"), box.changes.aside) == (None, 0)


async def test_a_good_configuration_after_a_refused_one_ends_the_refusal(box: Box) -> None:
    await box.pair("a", "SN-1")
    await box.pair("data", "SN-2")
    await box.change("data", config=THIEF)
    # what leaves the configuration out says that it has not changed: the refused one is still the newest
    await box.change("data", secret_version=1)
    assert box.changes.refusal("data")
    await box.change("data", config={"config_version": 3})
    assert (box.device("data").config_version, box.changes.refusal("data"), box.changes.aside) == (3, None, 0)


# --- devices that are not here (yet) -------------------------------------------------------------------------


async def test_a_change_that_overtakes_the_grant_of_its_pairing_is_applied_when_the_device_is_paired(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as box:
        await box.change(config={"config_version": 3, "settings": {"n": 3}}, secret_version=2)
        assert (box.changes.aside, box.changes.refused) == (1, 0)
    async with opened(tmp_path) as box:
        box.odoo.issue("T-1", "SN-1", "press-07", config_version=2, secret_version=2)
        await box.pairing.answer(ConfigRequest(serial="SN-1", token="T-1"), source_address="10.0.0.1")
        await until(lambda: box.changes.aside == 0)
        device = box.device()
        assert (device.config_version, device.config.settings, device.generation) == (3, {"n": 3}, 1)
        assert await box.said("device_change_refused") == []


async def test_a_pairing_is_not_undone_by_an_older_change(box: Box) -> None:
    await box.change(config={"config_version": 3})
    await box.pair(config_version=7)
    await until(lambda: box.changes.aside == 0)
    assert box.device().config_version == 7


async def test_a_device_that_was_switched_off_before_its_pairing_was_stored_is_off(box: Box) -> None:
    await box.change(enabled=False)
    await box.pair()
    await until(lambda: not box.device().enabled)


async def test_a_device_that_was_switched_off_before_its_pairing_is_off_also_where_the_disk_failed_in_between(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.change(enabled=False)
    monkeypatch.setattr(box.changes, "_round_s", 0.01)
    read, failures = box.changes._aside.read, []

    async def fails_twice(device_ids: Collection[str]) -> list[DeviceChange]:
        if len(failures) < 2:
            failures.append(list(device_ids))
            raise StoreUnavailableError("the disk is full")
        return await read(device_ids)

    monkeypatch.setattr(box.changes._aside, "read", fails_twice)
    await box.pair()
    await until(lambda: not box.device().enabled)
    assert failures == [["press-07"]] * 2


async def test_what_waits_for_a_device_that_is_revoked_is_forgotten(box: Box) -> None:
    await box.change(config={"config_version": 3})
    await box.changes.apply([change(config={"config_version": 4})], ["press-07"])
    assert box.changes.aside == 0


async def test_changes_that_wait_are_bounded_and_those_of_absent_devices_go_first(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_aside, "MOST_ASIDE", 5)
    await box.pair("a", "SN-1")
    await box.pair("data", "SN-2")
    await box.change("data", config=THIEF)
    await box.changes.apply([change(f"z-absent-{number}") for number in range(10)], [])
    assert box.changes.aside == 5
    assert box.changes.refusal("data")
    rows = await box.database.run(lambda c: c.execute("SELECT count(*) FROM changes_aside").fetchone())
    assert rows == (5,)


async def test_a_change_that_cannot_be_read_any_more_is_forgotten(box: Box) -> None:
    await box.change(config={"config_version": 3})
    await box.database.run(lambda c: c.execute("UPDATE changes_aside SET change = '{'"))
    await box.pair()
    await until(lambda: not box.changes._paired)
    await box.changes.retry()
    assert box.device().config_version == 1


# --- the end of a pairing ------------------------------------------------------------------------------------


async def test_a_revoked_device_is_thrown_out_at_once_and_its_token_leads_nowhere(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.pair_fully()
        await box.changes.apply([change(enabled=True)], ["press-07", "nobody", "press-07"])
        assert not box.broker.connections
        assert box.registry.get("press-07") is None
    async with opened(tmp_path) as box:
        assert len(box.registry) == 0
        repeat = ConfigRequest(serial="SN-1", token="T-SN-1", request_id="r1")
        answer = await box.pairing.answer(repeat, source_address="10.0.0.1")
        assert answer.status == "error"
        assert answer.code == "token_used"
        # a new token begins anew, with a secret that never was
        box.odoo.issue("T-2", "SN-1", "press-07")
        again = ConfigRequest(serial="SN-1", token="T-2", request_id="r2")
        assert (await box.pairing.answer(again, source_address="10.0.0.1")).status == "ok"
        assert (box.device().generation, box.device().valid_from) == (2, 2)


async def test_an_operator_removes_a_device_and_odoo_is_told(box: Box) -> None:
    await box.pair()
    await box.changes.remove("press-07")
    assert await box.said("device_removed") == [{"event": "device_removed", "device_id": "press-07"}]
    with pytest.raises(UnknownDeviceError):
        await box.changes.remove("press-07")
    with pytest.raises(UnknownDeviceError):
        await box.changes.rotate("press-07")
    assert len(await box.said("device_removed")) == 1


async def test_while_nothing_can_be_stored_changes_are_refused_as_a_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.pair()
        await box.changes.retry()
        await box.database.close()
        for changes, revoked in (([change(enabled=False)], []), ([], ["press-07"])):
            with pytest.raises(StoreUnavailableError):
                await box.changes.apply(changes, revoked)
        assert box.device().enabled


# --- many ----------------------------------------------------------------------------------------------------


async def test_five_thousand_changes_do_not_hold_the_loop(tmp_path: Path) -> None:
    count = 5000
    async with opened(tmp_path, clock=ManualClock()) as box:
        # not one by one through pair(): that waits for as many commits
        await box.database.run(lambda c: _many(c, count))
        await box.registry.load()
        stop, turns = asyncio.Event(), [0]
        box.registry.changed.append(lambda _: turns.__setitem__(-1, turns[-1] + 1))
        longest_s = 0.0

        async def watch() -> None:
            nonlocal longest_s
            while not stop.is_set():
                turns.append(0)
                begun_s = time.thread_time()  # this thread's own work, on a machine that others use too
                await asyncio.sleep(0)
                longest_s = max(longest_s, time.thread_time() - begun_s)

        watching = asyncio.create_task(watch())
        begun_s = time.thread_time()
        topics = {"telemetry": "plant/{device}/t", "command": "plant/{device}/c"}
        config = {"config_version": 2, "topics": topics}
        changes = [change(f"press-{number}", config=config, secret_version=1) for number in range(count)]
        await box.changes.apply(changes, [])
        stop.set()
        await watching
        assert box.changes.applied == count
        assert {device.config_version for device in box.registry.all()} == {2}
        # times to look at (``-s``): a collector that runs meanwhile would fail a test of them
        spent_s = time.thread_time() - begun_s
        print(f"{count} changes: {spent_s:.2f} s of CPU, {longest_s * 1000:.1f} ms at a time at most")
        assert max(turns) <= CHANGES_PER_JOB


def _many(connection: Any, count: int) -> None:
    connection.executemany(
        "INSERT INTO devices (device_id, serial, config, generation, valid_from, login_generation, enabled,"
        " paired_at_ms, paired_generation) VALUES (?, ?, ?, 1, 1, 1, 1, 0, 1)",
        [(f"press-{n}", f"SN-{n}", f'{{"device_id": "press-{n}"}}') for n in range(count)],
    )
