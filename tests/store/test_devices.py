"""The device registry: durable first, one owner per topic, no secret ever valid again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import TopicTemplates
from appliance.errors import StoreUnavailableError, TopicsRefusedError, UnknownDeviceError
from appliance.store.database import Database
from appliance.store.device_rows import PAIRINGS_KEPT, VALID_GENERATIONS, Claim
from appliance.store.devices import Device, DeviceNote, DeviceRegistry


def claim(
    device_id: str = "press-07", serial: str = "SN-1", token: bytes = b"t1", request_id: str = "r1", **config: object
) -> Claim:
    return Claim(
        serial=serial,
        token_digest=token,
        request_id=request_id,
        config=DeviceConfig.model_validate({"device_id": device_id, **config}),
    )


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path)
    yield database
    await database.close()


async def load(database: Database, templates: TopicTemplates | None = None) -> DeviceRegistry:
    registry = DeviceRegistry(database=database, templates=templates or TopicTemplates())
    await registry.load()
    return registry


@pytest.fixture
async def registry(database: Database) -> DeviceRegistry:
    return await load(database)


def known(registry: DeviceRegistry, device_id: str) -> Device:
    device = registry.get(device_id)
    assert device is not None
    return device


async def test_a_paired_device_is_on_disk_when_the_callback_is_told(database: Database, tmp_path: Path) -> None:
    registry = await load(database)
    seen: list[tuple[str, list[tuple[str, int]]]] = []

    def look(device: Device) -> None:
        with sqlite3.connect(tmp_path / "appliance.db") as other:
            seen.append((device.device_id, other.execute("SELECT serial, generation FROM devices").fetchall()))
        other.close()

    registry.changed.append(look)
    await registry.pair(claim())
    assert seen == [("press-07", [("SN-1", 1)])]


async def test_what_the_registry_knows_is_what_a_restart_reads(database: Database, registry: DeviceRegistry) -> None:
    await registry.pair(claim(settings={"telemetry_interval_s": 10}, topics={"telemetry": "plant/{device}/t"}))
    await registry.pair(claim(token=b"t2", request_id="r2", config_version=8))
    await registry.note({"press-07": DeviceNote(generation=1, firmware_version="1.2", hardware="press-ctl-2")})
    await registry.pair(claim("press-08", "SN-2"))
    await registry.set_enabled("press-08", False)
    again = await load(database)
    for device_id in ("press-07", "press-08"):
        assert again.get(device_id) == known(registry, device_id)
    assert {device.device_id for device in again.all()} == {"press-07", "press-08"}
    assert not known(again, "press-08").enabled


async def test_more_devices_than_one_page_are_loaded(database: Database, registry: DeviceRegistry) -> None:
    row = "VALUES (?, ?, 1, 1, 0, 1, ?, NULL, NULL, 0, NULL)"
    values = [(f"d{n}", f"s{n}", f'{{"device_id": "d{n}"}}') for n in range(1203)]
    await database.run(lambda connection: connection.executemany(f"INSERT INTO devices {row}", values) and None)
    again = await load(database)
    assert len(again) == 1203


async def test_each_pairing_counts_the_generation_up_and_the_earlier_secret_lasts_until_the_login(
    registry: DeviceRegistry,
) -> None:
    assert (await registry.pair(claim())).generation == 1
    await registry.note({"press-07": DeviceNote(generation=1)})
    assert (await registry.pair(claim(token=b"t2"))).generation == 2
    assert (await registry.pair(claim(token=b"t3"))).generation == 3
    device = known(registry, "press-07")
    # the second answer may have got lost: the device still logs in with the first
    assert [device.accepts(generation) for generation in (0, 1, 2, 3, 4)] == [False, True, True, True, False]
    await registry.note({"press-07": DeviceNote(generation=3)})
    device = known(registry, "press-07")
    assert [device.accepts(generation) for generation in (1, 2, 3)] == [False, False, True]
    assert not device.previous_valid


async def test_only_so_many_generations_are_valid_at_once(registry: DeviceRegistry) -> None:
    for number in range(VALID_GENERATIONS + 3):
        await registry.pair(claim(token=str(number).encode()))
    device = known(registry, "press-07")
    assert sum(device.accepts(generation) for generation in range(100)) == VALID_GENERATIONS


async def test_a_token_claimed_before_changes_nothing(registry: DeviceRegistry) -> None:
    first = await registry.pair(claim())
    assert await registry.pair(claim(request_id="another")) == first
    assert known(registry, "press-07").generation == 1
    assert await registry.find_pairing("SN-1", b"t1") == first
    assert await registry.find_pairing("SN-2", b"t1") is None


async def test_tokens_remembered_per_serial_number_are_bounded(database: Database, registry: DeviceRegistry) -> None:
    for number in range(PAIRINGS_KEPT + 5):
        await registry.pair(claim(token=str(number).encode()))
    count = await database.run(lambda connection: connection.execute("SELECT count(*) FROM pairings").fetchone()[0])
    assert count == PAIRINGS_KEPT


async def test_a_device_id_that_changes_hands_leaves_nothing_to_its_former_serial_number(
    registry: DeviceRegistry,
) -> None:
    await registry.pair(claim())
    await registry.note({"press-07": DeviceNote(generation=1)})
    await registry.pair(claim(serial="SN-2", token=b"t2"))
    device = known(registry, "press-07")
    assert (device.serial, device.generation, device.accepts(1)) == ("SN-2", 2, False)
    assert device.first_login_at_ms is None
    assert registry.by_serial("SN-1") is None
    assert registry.by_serial("SN-2") is device
    # its token is still known, so that Odoo need not be asked for it again
    assert await registry.find_pairing("SN-1", b"t1") is not None


async def test_a_serial_number_that_gets_another_id_loses_the_first_and_its_secrets_never_return(
    registry: DeviceRegistry, database: Database
) -> None:
    removed: list[str] = []
    registry.removed.append(lambda device: removed.append(device.device_id))
    await registry.pair(claim("a"))
    await registry.pair(claim("a", token=b"t2"))
    await registry.pair(claim("b", token=b"t3"))
    assert (removed, registry.get("a"), len(registry)) == (["a"], None, 1)
    # the id returns: generations 1 and 2 opened the door once, they must not open it again
    await registry.pair(claim("a", serial="SN-9", token=b"t4"))
    assert known(registry, "a").generation == 3
    assert not known(registry, "a").previous_valid
    assert len(await load(database)) == 2


async def test_two_serial_numbers_that_exchange_their_ids_end_with_one_device_each(registry: DeviceRegistry) -> None:
    await registry.pair(claim("a", "SN-1"))
    await registry.pair(claim("b", "SN-2"))
    await registry.pair(claim("b", "SN-1", token=b"t3"))
    assert {(device.device_id, device.serial) for device in registry.all()} == {("b", "SN-1")}
    await registry.pair(claim("a", "SN-2", token=b"t4"))
    assert {(device.device_id, device.serial) for device in registry.all()} == {("b", "SN-1"), ("a", "SN-2")}


@pytest.mark.parametrize(
    ("device_id", "serial", "topics", "complaint"),
    [
        ("b", "SN-2", {"telemetry": "command/{device}/action"}, "topics must differ"),
        ("b", "SN-2", {"telemetry": "plant/#"}, "wildcards"),
        ("b", "SN-2", {"telemetry": "plant/data"}, "exactly once"),
        ("b", "SN-2", {"telemetry": "test/{device}"}, "viewers"),
        ("b", "request", {}, "the same name"),
        ("config", "SN-2", {"config_request": "b/ask", "telemetry": "iiot/{device}/request"}, "requests go"),
        ("x", "SN-2", {"telemetry": "{device}/x", "command": "x/{device}"}, "the same name"),
        # the answer topic goes by serial number, telemetry by id: here one device's id is the other's serial number
        ("SN-1", "SN-2", {"telemetry": "iiot/config/{device}", "config_response": "b/{device}"}, "to device a"),
        ("data", "SN-2", {"telemetry": "telemetry/a/{device}"}, "belongs to device a"),
        ("b", "SN-2", {"config_request": "telemetry/a/data"}, "belongs to device a"),
    ],
)
async def test_topics_that_are_invalid_or_anothers_are_refused_and_change_nothing(
    registry: DeviceRegistry, device_id: str, serial: str, topics: dict[str, str], complaint: str
) -> None:
    await registry.pair(claim("a", "SN-1"))
    with pytest.raises(TopicsRefusedError, match=complaint):
        await registry.pair(claim(device_id, serial, topics=topics))
    assert [device.device_id for device in registry.all()] == ["a"]
    assert await registry.find_pairing(serial, b"t1") is None


async def test_topics_are_free_again_when_their_device_has_left_them(registry: DeviceRegistry) -> None:
    await registry.pair(claim("a", "SN-1", topics={"telemetry": "line/{device}/t", "config_request": "line/a/ask"}))
    with pytest.raises(TopicsRefusedError):
        await registry.pair(_thief())
    await registry.pair(claim("a", "SN-1", token=b"t2"))
    await registry.pair(_thief())
    assert known(registry, "t").topics.command == "line/a/t"


def _thief() -> Claim:
    return claim("t", "SN-2", topics={"command": "line/a/{device}"})


async def test_a_device_whose_topics_collide_after_a_change_of_the_settings_is_loaded_disabled(
    database: Database, registry: DeviceRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    await registry.pair(claim("a", "SN-1"))
    await registry.pair(claim("b", "SN-2", topics={"telemetry": "plant/{device}/x"}))
    again = await load(database, TopicTemplates(command="plant/{device}/x"))
    assert known(again, "a").enabled
    assert not known(again, "b").enabled
    assert "pair it again" in str(known(again, "b").disabled_reason)
    assert "device b may not connect" in caplog.text
    # the switch does not mend it, a pairing does
    assert not (await again.set_enabled("b", True)).enabled
    await again.pair(claim("b", "SN-2", token=b"t2"))
    assert known(again, "b").enabled


async def test_a_configuration_that_cannot_be_read_disables_one_device_and_no_other(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim("a", "SN-1"))
    await registry.pair(claim("b", "SN-2"))
    await database.run(lambda connection: connection.execute("UPDATE devices SET config = '{' WHERE device_id = 'a'"))
    again = await load(database)
    assert [(d.device_id, d.enabled) for d in sorted(again.all(), key=lambda d: d.device_id)] == [
        ("a", False),
        ("b", True),
    ]


async def test_a_pairing_that_cannot_be_committed_leaves_no_trace(database: Database, tmp_path: Path) -> None:
    registry = await load(database)
    await database.close()
    with pytest.raises(StoreUnavailableError):
        await registry.pair(claim())
    assert list(registry.all()) == []
    reopened = await Database.open(tmp_path)
    try:
        registry = await load(reopened)
        assert (await registry.pair(claim())).generation == 1
    finally:
        await reopened.close()


async def test_a_caller_that_is_cancelled_leaves_memory_and_disk_alike(
    database: Database, registry: DeviceRegistry
) -> None:
    changed = asyncio.Event()
    registry.changed.append(lambda _: changed.set())
    pairing = asyncio.create_task(registry.pair(claim()))
    await asyncio.sleep(0)
    pairing.cancel()
    await asyncio.wait([pairing])
    assert pairing.cancelled()
    await asyncio.wait_for(changed.wait(), 5)
    assert known(registry, "press-07") == (await load(database)).get("press-07")


async def test_notes_of_unknown_devices_and_of_ended_generations_are_passed_over(registry: DeviceRegistry) -> None:
    await registry.pair(claim())
    before = known(registry, "press-07")
    await registry.note({"press-07": DeviceNote(generation=7), "nobody": DeviceNote(generation=1)})
    assert known(registry, "press-07") is before


async def test_switching_an_unknown_device_is_an_error(registry: DeviceRegistry) -> None:
    with pytest.raises(UnknownDeviceError):
        await registry.set_enabled("nobody", False)
