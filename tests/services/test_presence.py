"""Who is connected and why not: what is known, what is kept on disk, and what Odoo is told of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.odoo import DeviceConfig, Kind
from appliance.contract.presence import OfflineCode, explain
from appliance.contract.topics import TopicTemplates
from appliance.errors import StoreUnavailableError
from appliance.services.presence import PresenceService
from appliance.services.presence_keeper import (
    LATER_S,
    OFFLINE_GRACE_S,
    RESTART_GRACE_S,
    SEEN_EVERY_S,
    PresenceKeeper,
)
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.device_rows import Claim
from appliance.store.devices import DeviceRegistry
from appliance.store.presence import PresenceMessage, PresenceRow, PresenceStore
from tests.store.support import NOW_MS, ManualClock

ROOT = Path(__file__).parents[2]


class CountedStore(PresenceStore):
    """Counts transactions, and fails when it is told to."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.writes: list[int] = []
        self.fails = False

    async def write(self, rows: Any, messages: Any) -> None:
        if self.fails:
            raise StoreUnavailableError("the disk is full")
        await super().write(rows, messages)
        self.writes.append(len(rows))


class Box:
    """The services on a real store; ``clock`` outlives it."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.clock = clock
        self.database = database
        self.buffer = Buffer(database)
        self.registry = DeviceRegistry(database=database, templates=TopicTemplates())
        self.presence = PresenceService(clock=clock)
        self.store = CountedStore(database)
        self.keeper = PresenceKeeper(presence=self.presence, store=self.store, clock=clock)
        self.registry.removed.append(lambda device: self.keeper.removed(device.device_id))
        self._read = 0

    async def pair(self, *device_ids: str) -> None:
        for device_id in device_ids:
            if self.registry.get(device_id) is None:
                await self.registry.pair(
                    Claim(
                        serial=f"SN-{device_id}",
                        token_digest=os.urandom(16),
                        request_id="r",
                        config=DeviceConfig(device_id=device_id),
                    )
                )

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        """The presence messages that came since the last question, by device."""
        batch = await self.buffer.take(after=self._read, limit=100_000, max_bytes=1 << 30)
        assert {message.kind for message in batch.messages} <= {Kind.PRESENCE}
        self._read = max((message.seq for message in batch.messages), default=self._read)
        return [(message.device, json.loads(message.payload)) for message in batch.messages]

    async def after(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Let time pass, write, and say what was told."""
        self.clock.forward(seconds)
        await self.keeper.write()
        return await self.told()

    async def rows(self) -> dict[str, PresenceRow]:
        return {row.device: row for row in await self.store.load()}


@asynccontextmanager
async def opened(folder: Path, clock: ManualClock) -> AsyncIterator[Box]:
    database = await Database.open(folder, clock=clock)
    try:
        box = Box(database, clock)
        await box.buffer.load()
        await box.registry.load()
        box._read = box.buffer.backlog().last_seq
        await box.keeper.load()
        yield box
    finally:
        await database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def box(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Box]:
    async with opened(tmp_path, clock) as box:
        await box.pair("press-07")
        yield box


def statuses(told: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str, str | None]]:
    return [(device, payload["status"], payload["reason_code"]) for device, payload in told]


# --- what is told when ------------------------------------------------------------------------------------------


async def test_coming_is_told_at_once_and_going_after_a_grace(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    box.presence.last_telemetry_ms["press-07"] = NOW_MS - 5000
    assert await box.after(1) == [
        (
            "press-07",
            {
                "status": "online",
                "since": "2026-09-21T14:13:20.000Z",
                "reason_code": None,
                "reason": None,
                "address": "10.0.0.7",
                "reconnects": 0,
                "takeovers": 0,
                "contested": False,
                "last_seen": "2026-09-21T14:13:20.000Z",
                "last_telemetry": "2026-09-21T14:13:15.000Z",
            },
        )
    ]
    box.presence.disconnected("press-07", "keep-alive timed out", OfflineCode.KEEP_ALIVE, silence_s=90)
    assert await box.after(OFFLINE_GRACE_S - 1) == []
    [(device, payload)] = await box.after(1)
    assert (device, payload["status"], payload["reason_code"]) == ("press-07", "offline", "keep_alive")
    assert payload["reason"] == explain(OfflineCode.KEEP_ALIVE)
    assert payload["since"] == "2026-09-21T14:13:21.000Z", "the time it went, not the time it is told"
    assert payload["last_seen"] == "2026-09-21T14:11:51.000Z"
    assert await box.after(10_000) == []


async def test_a_revoked_device_is_told_offline_at_once(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    await box.after(1)
    box.presence.disconnected("press-07", "its access was revoked", OfflineCode.REVOKED)
    assert statuses(await box.after(0)) == [("press-07", "offline", "revoked")]


async def test_a_thousand_devices_that_reconnect_ten_times_in_a_minute_make_a_thousand_messages(box: Box) -> None:
    devices = [f"d{number:04}" for number in range(1000)]
    await box.pair(*devices)
    told: Counter[str] = Counter()
    for number in range(11):
        for device in devices:
            box.presence.connected(device, "10.0.0.7")
        told.update(device for device, _ in await box.after(3))
        if number < 10:
            for device in devices:
                box.presence.disconnected(device, "the connection was lost", OfflineCode.CONNECTION_LOST)
            told.update(device for device, _ in await box.after(3))
    assert told == Counter(dict.fromkeys(devices, 1))
    later = await box.after(LATER_S)
    assert [payload["reconnects"] for _, payload in later] == [10] * 1000, "what was not told is told later"
    assert await box.after(LATER_S) == []


async def test_a_device_that_comes_and_goes_slowly_is_told_ever_more_rarely(box: Box) -> None:
    count = 0
    for _ in range(60):  # half an hour
        box.presence.connected("press-07", "10.0.0.7")
        count += len(await box.after(1))
        box.presence.disconnected("press-07", "the connection was lost", OfflineCode.CONNECTION_LOST)
        for _ in range(29):
            count += len(await box.after(1))
    assert 4 <= count <= 10
    assert len(await box.after(300)) == 1
    assert await box.after(10_000) == []
    box.presence.connected("press-07", "10.0.0.7")
    await box.after(1)
    box.presence.disconnected("press-07", "the connection was lost", OfflineCode.CONNECTION_LOST)
    assert len(await box.after(OFFLINE_GRACE_S)) == 1, "after a quiet time the grace is the short one again"


async def test_five_thousand_devices_that_come_at_once_are_a_handful_of_transactions(box: Box) -> None:
    devices = [f"d{number:04}" for number in range(5000)]
    await asyncio.gather(*(box.pair(device) for device in devices))
    for device in devices:
        box.presence.connected(device, "10.0.0.7")
    assert len(await box.after(1)) == 5000
    assert len(box.store.writes) == 10
    assert await box.after(1) == []
    assert len(box.store.writes) == 10, "nothing has changed, so nothing is written"


async def test_a_disk_that_was_full_for_a_minute_makes_the_grace_no_longer(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    await box.after(1)
    box.presence.disconnected("press-07", "", OfflineCode.CONNECTION_LOST)
    box.store.fails = True
    for _ in range(60):
        await box.after(1)
    box.store.fails = False
    assert statuses(await box.after(1)) == [("press-07", "offline", "connection_lost")]
    box.presence.connected("press-07", "10.0.0.7")
    await box.after(1)
    box.presence.disconnected("press-07", "", OfflineCode.CONNECTION_LOST)
    assert await box.after(OFFLINE_GRACE_S - 1) == []
    assert statuses(await box.after(1)) == [("press-07", "offline", "connection_lost")]


# --- clones -----------------------------------------------------------------------------------------------------


async def test_two_clones_that_fight_are_noticed_told_and_logged_once_a_minute(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    box.presence.connected("press-07", "10.0.0.7")
    assert len(await box.after(1)) == 1
    told = []
    for number in range(40):
        box.presence.disconnected("press-07", "another connection took over", OfflineCode.TAKEN_OVER)
        box.presence.connected("press-07", ("10.0.0.8", "10.0.0.7")[number % 2], takeover=True)
        told += await box.after(1)
    assert [(payload["status"], payload["contested"]) for _, payload in told] == [("online", True)]
    assert told[0][1]["takeovers"] == 3
    warning = box.presence.status("press-07").warning
    assert warning is not None
    assert "10.0.0.7 and 10.0.0.8" in warning
    assert box.presence.status("press-07").takeovers == 40
    assert [record.levelname for record in caplog.records if "press-07" in record.message] == ["INFO", "WARNING"]
    told = await box.after(300)
    assert [(payload["contested"], payload["takeovers"]) for _, payload in told] == [(False, 37)]
    assert box.presence.status("press-07").warning is None


async def test_a_restart_ends_a_fight_and_odoo_hears_of_it(tmp_path: Path, clock: ManualClock) -> None:
    async with opened(tmp_path, clock) as box:
        await box.pair("press-07")
        box.presence.connected("press-07", "10.0.0.7")
        await box.after(1)
        told = []
        for _ in range(3):
            box.presence.disconnected("press-07", "another connection took over", OfflineCode.TAKEN_OVER)
            box.presence.connected("press-07", "10.0.0.8", takeover=True)
            told += await box.after(1)
        assert [payload["contested"] for _, payload in told] == [True]
        box.presence.disconnected("press-07", "", OfflineCode.APPLIANCE_STOPPED)
        await box.keeper.close()
    async with opened(tmp_path, clock) as box:
        box.presence.connected("press-07", "10.0.0.7")
        told = [each for _ in range(100) for each in await box.after(10)]
        assert [(payload["status"], payload["contested"]) for _, payload in told] == [("online", False)]


async def test_a_takeover_now_and_then_is_no_fight(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    for _ in range(10):
        box.presence.disconnected("press-07", "another connection took over", OfflineCode.TAKEN_OVER)
        box.presence.connected("press-07", "10.0.0.7", takeover=True)
        await box.after(45)
        assert box.presence.status("press-07").warning is None


# --- restarts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orderly", [True, False])
async def test_after_a_restart_who_was_online_is_offline_since_then_until_it_returns(
    tmp_path: Path, clock: ManualClock, orderly: bool
) -> None:
    async with opened(tmp_path, clock) as box:
        await box.pair("back", "lost", "away")
        for device in ("back", "lost", "away"):
            box.presence.connected(device, "10.0.0.7")
        box.presence.last_telemetry_ms["lost"] = NOW_MS - 1000
        box.presence.disconnected("away", "closed by the device", OfflineCode.CLOSED_BY_DEVICE)
        await box.after(OFFLINE_GRACE_S)
        if orderly:
            for device in ("back", "lost"):
                box.presence.disconnected(device, "the appliance was stopped", OfflineCode.APPLIANCE_STOPPED)
            await box.keeper.close()
            assert len(await box.told()) == 0, "who comes back within the grace never was away"
    clock.forward(30)
    async with opened(tmp_path, clock) as box:
        status = box.presence.status("lost")
        assert (status.status, status.reason_code) == ("offline", "appliance_restarted")
        assert status.since_ms == NOW_MS + (15_000 if orderly else 45_000)
        assert status.for_s == (30 if orderly else 0)
        assert status.last_telemetry_ms == NOW_MS - 1000
        assert (box.presence.status("away").reason_code, box.presence.online) == ("closed_by_device", 0)
        assert await box.after(RESTART_GRACE_S - 2) == []
        box.presence.connected("back", "10.0.0.7")
        assert await box.after(1) == []
        assert statuses(await box.after(1)) == [("lost", "offline", "appliance_restarted")]
        assert await box.after(LATER_S + 1) == [], "coming back after a restart is no news"
        assert (await box.rows())["lost"].code == "appliance_restarted"


def killed_while_it_tells(folder: Path) -> None:
    code = "import asyncio, sys\nfrom tests.services.test_presence import churn\nasyncio.run(churn(sys.argv[1]))\n"
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(30):
        assert child.stdout.readline()
    child.kill()
    child.wait()
    child.stdout.close()


async def test_what_odoo_was_told_and_the_message_are_one_transaction(tmp_path: Path) -> None:
    """Killed at any moment, the file says that Odoo was told if, and only if, the message is in it."""
    await asyncio.to_thread(killed_while_it_tells, tmp_path)
    async with opened(tmp_path, ManualClock()) as box:
        box._read = 0
        last = {device: payload["status"] for device, payload in await box.told()}
        rows = await box.rows()
        assert len(last) == 50
        assert {device: row.told_online for device, row in rows.items()} == {
            device: int(status == "online") for device, status in last.items()
        }


async def test_a_message_that_cannot_be_added_leaves_the_row_as_it_was(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr("appliance.store.presence.insert_rows", fail)
    box.presence.connected("press-07", "10.0.0.7")
    with pytest.raises(ArithmeticError):
        await box.after(1)
    assert await box.rows() == {}


async def churn(folder: str) -> None:
    """For the child: fifty devices come and are revoked, as fast as it goes."""
    clock = ManualClock()
    async with opened(Path(folder), clock) as box:
        devices = [f"d{number}" for number in range(50)]
        await box.pair(*devices)
        for number in range(100_000):
            for device in devices:
                if number % 2:
                    box.presence.disconnected(device, "its access was revoked", OfflineCode.REVOKED)
                else:
                    box.presence.connected(device, "10.0.0.7")
            clock.forward(1)
            await box.keeper.write()
            print(number, flush=True)


async def test_while_nothing_can_be_stored_nothing_is_told_and_nothing_forgotten(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    box.store.fails = True
    assert await box.after(1) == []
    box.store.fails = False
    assert statuses(await box.after(1)) == [("press-07", "online", None)]
    assert (await box.rows())["press-07"].told_online == 1
    for _ in range(2):
        box.presence.disconnected("press-07", "the connection was lost", OfflineCode.CONNECTION_LOST)
        box.presence.connected("press-07", "10.0.0.7")
    box.store.fails = True
    assert await box.after(LATER_S) == []
    box.store.fails = False
    assert [payload["reconnects"] for _, payload in await box.after(1)] == [2]


# --- what is on disk --------------------------------------------------------------------------------------------


async def test_last_seen_and_last_telemetry_are_written_once_a_minute_for_those_that_were_seen(box: Box) -> None:
    await box.pair("idle", "busy", "pings")
    silence = {"idle": 1000.0, "busy": 0.5, "pings": 20.0}
    box.presence.silence_s = silence.get
    for device in silence:
        box.presence.connected(device, "10.0.0.7")
    await box.after(1)
    before = await box.rows()
    del box.store.writes[:]
    for _ in range(int(SEEN_EVERY_S) - 1):
        box.presence.last_telemetry_ms["busy"] = box.clock.now_ms()
        await box.after(1)
    assert box.store.writes == [2], "the readings of a minute are one row"
    after = await box.rows()
    assert after["idle"] == before["idle"]
    assert after["busy"].last_telemetry_ms == box.clock.now_ms() - 1000
    assert after["pings"].last_telemetry_ms is None
    assert after["pings"].last_seen_ms == box.clock.now_ms() - 20_000


async def test_a_device_that_was_removed_leaves_nothing_behind_and_odoo_is_told(box: Box) -> None:
    await box.pair("other")
    for device in ("press-07", "other"):
        box.presence.connected(device, "10.0.0.7")
    await box.after(1)
    box.presence.disconnected("press-07", "its access was revoked", OfflineCode.REVOKED)
    # its serial number is paired under another id, so the former one ends
    claim = Claim(serial="SN-press-07", token_digest=b"t", request_id="r", config=DeviceConfig(device_id="press-08"))
    await box.registry.pair(claim)
    assert (await box.rows()).keys() == {"other"}
    assert statuses(await box.after(1)) == [("press-07", "offline", "revoked")]
    assert (await box.rows()).keys() == {"other"}
    assert box.presence.entries.keys() == {"other"}
    assert box.keeper._dirty.keys() | box.keeper._due.keys() | box.keeper._written_telemetry.keys() == set()


async def test_a_row_for_a_device_that_is_not_paired_is_not_written(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    await box.after(1)
    row = (await box.rows())["press-07"]
    await box.store.write([row._replace(device="nobody")], [])
    assert (await box.rows()).keys() == {"press-07"}


async def test_pairing_a_device_anew_keeps_what_is_known_of_it(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    await box.after(1)
    before = await box.rows()
    await box.registry.pair(
        Claim(serial="SN-press-07", token_digest=b"n", request_id="r", config=DeviceConfig(device_id="press-07"))
    )
    assert await box.rows() == before


# --- clocks and words -------------------------------------------------------------------------------------------


async def test_a_wall_clock_that_jumps_moves_no_grace_and_no_age(box: Box) -> None:
    box.presence.connected("press-07", "10.0.0.7")
    await box.after(1)
    box.presence.disconnected("press-07", "the connection was lost", OfflineCode.CONNECTION_LOST)
    box.clock.wall_ms += 365 * 86_400_000
    assert await box.after(1) == []
    box.clock.wall_ms -= 2 * 365 * 86_400_000
    assert await box.after(OFFLINE_GRACE_S - 2) == []
    assert box.presence.status("press-07").for_s == OFFLINE_GRACE_S - 1
    assert len(await box.after(1)) == 1


def test_every_code_has_words_for_an_operator() -> None:
    texts = [explain(code, "protocol error: packet id 0") for code in OfflineCode]
    assert len(set(texts)) == len(OfflineCode)
    assert explain(OfflineCode.PROTOCOL_ERROR, "protocol error: packet id 0").endswith(": packet id 0")
    assert len(explain(OfflineCode.ENDED, "x" * 10_000)) < 300


async def test_rows_of_a_later_version_with_unknown_codes_are_read(tmp_path: Path, clock: ManualClock) -> None:
    async with opened(tmp_path, clock) as box:
        await box.pair("press-07")
        row = PresenceRow("press-07", 0, NOW_MS, "abducted", "", None, 1, 0, None, None, 1, 1, 0)
        await box.store.write([row], [PresenceMessage("press-07", b"{}", NOW_MS, NOW_MS)])
    async with opened(tmp_path, clock) as box:
        assert box.presence.status("press-07").reason_code == "ended"


def test_the_readme_of_the_contract_names_every_code() -> None:
    section = (ROOT / "appliance/contract/README.md").read_text().partition("### Presence")[2]
    assert [code for code in OfflineCode if f"`{code}`" not in section] == []
