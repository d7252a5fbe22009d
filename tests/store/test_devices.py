"""The device registry: durable first, one owner per topic, no secret ever valid again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from json import dumps
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import LocalTopics, TopicTemplates
from appliance.errors import OtherDeviceError, StoreUnavailableError, TopicsRefusedError, UnknownDeviceError
from appliance.store.database import Database
from appliance.store.device import EARLIER_TOPICS_KEPT, topics_digest
from appliance.store.device_rows import PAIRINGS_KEPT, VALID_GENERATIONS, Claim
from appliance.store.devices import Device, DeviceNote, DeviceRegistry, DeviceUpdate, Told


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
    row = "(device_id, serial, config, generation, valid_from, login_generation, enabled, paired_at_ms)"
    values = [(f"d{n}", f"s{n}", f'{{"device_id": "d{n}"}}') for n in range(1203)]
    await database.run(
        lambda connection: (
            connection.executemany(f"INSERT INTO devices {row} VALUES (?, ?, ?, 1, 1, 0, 1, 0)", values) and None
        )
    )
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
    # the answer may get lost, so the device may still be on its old topics
    with pytest.raises(TopicsRefusedError):
        await registry.pair(_thief())
    await registry.end_earlier(["a"])
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


LOCAL = {"publish": ["line/{device}/out"], "subscribe": ["line/+/out"]}


@pytest.mark.parametrize(
    "granted",
    [
        {"subscribe": ["telemetry/#"]},
        {"subscribe": ["telemetry/press-99/data"]},
        {"publish": ["command/+/+"]},
        {"publish": ["iiot/config/request"]},
        {"publish": ["iiot/config/SN-99"]},
        {"subscribe": ["ota/{device}/notify"]},
        {"publish": ["plant/{device}/t"]},
        {"publish": ["plant/+/t"]},
        {"publish": ["plant/press-99/t"]},
        {"publish": ["own/+/t"]},
        {"publish": ["test/x"]},
        {"publish": ["line/a"] * 17},
    ],
)
async def test_local_topics_that_could_meet_any_devices_topics_are_refused_and_change_nothing(
    registry: DeviceRegistry, granted: dict[str, list[str]]
) -> None:
    await registry.pair(claim("press-08", "SN-2", b"t8", topics={"telemetry": "plant/{device}/t"}))
    before = await registry.pair(claim(local_topics=LOCAL))
    own = {"telemetry": "own/{device}/t"}
    with pytest.raises(TopicsRefusedError, match="local topic"):
        await registry.pair(claim(token=b"t2", topics=own, local_topics=granted))
    assert known(registry, "press-07").generation == before.generation
    assert known(registry, "press-07").config.local() == LocalTopics(("line/{device}/out",), ("line/+/out",))


async def test_a_profile_whose_topics_would_meet_granted_local_topics_is_refused(registry: DeviceRegistry) -> None:
    await registry.pair(claim(local_topics=LOCAL))
    topics = {"ota_status": "line/{device}/out"}
    with pytest.raises(TopicsRefusedError, match=r"local topic line/\+/out meets line/\+/out"):
        await registry.pair(claim("press-08", "SN-2", b"t8", topics=topics))
    await registry.pair(claim(token=b"t2", local_topics={"publish": ["line/x"]}))
    await registry.pair(claim("press-08", "SN-2", b"t8", topics=topics))
    with pytest.raises(TopicsRefusedError, match="local topic"):
        await registry.pair(claim(token=b"t3", local_topics=LOCAL))
    await registry.pair(claim("press-08", "SN-2", b"t9"))
    with pytest.raises(TopicsRefusedError, match="local topic"):
        await registry.pair(claim(token=b"t4", local_topics=LOCAL))  # what it had, it may still use
    await registry.end_earlier(["press-08"])
    await registry.pair(claim(token=b"t5", local_topics=LOCAL))


async def test_two_devices_of_one_transaction_do_not_get_what_meets(registry: DeviceRegistry) -> None:
    await registry.pair(claim())
    await registry.pair(claim("press-08", "SN-2", b"t8"))
    refused = await registry.update_many(
        [
            DeviceUpdate(device_id="press-07", config=claim(local_topics=LOCAL).config),
            DeviceUpdate(
                device_id="press-08", config=claim("press-08", topics={"telemetry": "line/{device}/out"}).config
            ),
        ]
    )
    assert "meets line/+/out" in str(refused["press-08"])
    assert known(registry, "press-08").topics.telemetry == "telemetry/press-08/data"
    assert known(registry, "press-07").config.local() is not None


async def test_a_device_may_give_up_local_topics_for_topics_that_would_have_met_them(registry: DeviceRegistry) -> None:
    await registry.pair(claim(local_topics=LOCAL))
    config = claim(topics={"telemetry": "line/{device}/out"}, local_topics={"publish": ["cell/x"]}).config
    await registry.update(DeviceUpdate(device_id="press-07", config=config))
    with pytest.raises(TopicsRefusedError, match="cell/x meets"):
        await registry.pair(claim("press-08", "SN-2", b"t8", topics={"telemetry": "cell/{device}"}))
    await registry.remove(["press-07"])
    await registry.pair(claim("press-08", "SN-2", b"t9", topics={"telemetry": "cell/{device}"}))


async def test_local_topics_that_collide_after_a_change_of_the_settings_cost_a_device_nothing_else(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim(local_topics=LOCAL))
    later = await load(database, TopicTemplates(telemetry="line/{device}/out"))
    assert known(later, "press-07").enabled
    assert known(later, "press-07").config.local() is None
    assert known(await load(database), "press-07").config.local() is not None


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


async def test_a_removal_whose_caller_is_cancelled_is_not_undone_by_a_note_that_comes_next(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim())
    removing = asyncio.create_task(registry.remove(["press-07"]))
    await asyncio.sleep(0)
    noting = asyncio.create_task(registry.note({"press-07": DeviceNote(hardware="x")}))
    await asyncio.sleep(0)
    removing.cancel()
    await asyncio.wait([removing, noting])
    assert removing.cancelled()
    assert registry.get("press-07") is None
    assert (await load(database)).get("press-07") is None


async def test_a_pairing_that_could_not_be_stored_leaves_its_local_topics_free(
    database: Database, registry: DeviceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.pair(claim("press-06", "SN-6", b"t6", local_topics={"publish": ["six/+/s"]}))

    def refuse(job: object, *, receipt: object = None) -> asyncio.Future[object]:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(StoreUnavailableError("the disk is full"))
        return future

    with monkeypatch.context() as full:
        full.setattr(database, "submit", refuse)
        for refused in (claim(local_topics=LOCAL), claim("press-06", "SN-6", b"t7", local_topics=LOCAL)):
            with pytest.raises(StoreUnavailableError):
                await registry.pair(refused)
    # a token that was claimed before changes nothing either
    await registry.pair(claim("press-06", "SN-6", b"t6", local_topics=LOCAL))
    topics = {"ota_status": "line/{device}/out"}
    await registry.pair(claim("press-08", "SN-2", b"t8", topics=topics))
    with pytest.raises(TopicsRefusedError, match="local topic six"):
        await registry.pair(claim("press-09", "SN-9", b"t9", topics={"ota_status": "six/{device}/s"}))


async def test_notes_of_unknown_devices_and_of_ended_generations_are_passed_over(registry: DeviceRegistry) -> None:
    await registry.pair(claim())
    before = known(registry, "press-07")
    await registry.note({"press-07": DeviceNote(generation=7), "nobody": DeviceNote(generation=1)})
    assert known(registry, "press-07") is before


async def test_what_was_told_to_who_had_an_ended_secret_is_not_what_the_device_was_told(
    registry: DeviceRegistry,
) -> None:
    await registry.pair(claim())
    # the id changes hands; a note of what the former device was told is still on its way
    await registry.pair(claim(serial="SN-2", token=b"t2"))
    late = told(generation=1)
    await registry.note({"press-07": DeviceNote(told=late, taken=late)})
    assert (known(registry, "press-07").told, known(registry, "press-07").taken) == (None, None)
    present = told(generation=2)
    await registry.note({"press-07": DeviceNote(told=present, taken=present)})
    assert (known(registry, "press-07").told, known(registry, "press-07").taken) == (present, present)


async def test_switching_an_unknown_device_is_an_error(registry: DeviceRegistry) -> None:
    with pytest.raises(UnknownDeviceError):
        await registry.set_enabled("nobody", False)


# --- changes without pairing ---------------------------------------------------------------------------------


def config(device_id: str = "press-07", **values: object) -> DeviceConfig:
    return DeviceConfig.model_validate({"device_id": device_id, **values})


def told(device: Device | None = None, *, version: int = 1, generation: int = 1) -> Told:
    return Told(version, generation, b"d" * 16, b"" if device is None else topics_digest(device.topics))


async def change(registry: DeviceRegistry, device_id: str = "press-07", **values: Any) -> Device:
    return await registry.update(DeviceUpdate(device_id=device_id, **values))


async def test_a_changed_configuration_is_on_disk_before_anybody_is_told(
    database: Database, registry: DeviceRegistry, tmp_path: Path
) -> None:
    await registry.pair(claim())
    seen: list[tuple[int, str]] = []

    def look(device: Device) -> None:
        with sqlite3.connect(tmp_path / "appliance.db") as other:
            [(text,)] = other.execute("SELECT config FROM devices").fetchall()
        other.close()
        seen.append((device.config_version, text))

    registry.changed.append(look)
    await change(registry, config=config(config_version=2, settings={"telemetry_interval_s": 5}))
    assert [(version, '"telemetry_interval_s":5' in text) for version, text in seen] == [(2, True)]
    assert (await load(database)).get("press-07") == known(registry, "press-07")


async def test_the_same_change_again_writes_nothing(registry: DeviceRegistry) -> None:
    await registry.pair(claim())
    changed: list[Device] = []
    registry.changed.append(changed.append)
    for _ in range(3):
        await change(registry, config=config(config_version=2), enabled=True, secret_version=1)
    assert [(device.config_version, device.generation) for device in changed] == [(2, 2)]


async def test_topics_of_another_device_are_refused_and_the_rest_of_the_change_is_carried_out(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim("a", "SN-1"))
    await registry.pair(claim("data", "SN-2", config_version=3))
    stolen = config("data", config_version=4, topics={"telemetry": "telemetry/a/{device}"})
    with pytest.raises(TopicsRefusedError, match="belongs to device a"):
        await change(registry, "data", config=stolen, enabled=False, secret_version=1)
    device = known(registry, "data")
    assert (device.config_version, device.topics.telemetry) == (3, "telemetry/data/data")
    assert (device.enabled, device.generation) == (False, 2)
    assert (await load(database)).get("data") == device


async def test_of_two_updates_that_want_the_same_topic_at_once_the_first_gets_it(registry: DeviceRegistry) -> None:
    await registry.pair(claim("a", "SN-1"))
    await registry.pair(claim("b", "SN-2"))
    wanted = [
        DeviceUpdate(device_id="a", config=config("a", topics={"telemetry": "x/{device}/b"})),
        DeviceUpdate(device_id="b", config=config("b", topics={"telemetry": "x/a/{device}"})),
    ]
    refused = await registry.update_many(wanted)
    assert {name: str(error) for name, error in refused.items()} == {
        "b": "its topics cannot be used: x/a/b belongs to device a"
    }
    assert (known(registry, "a").topics.telemetry, known(registry, "b").topics.telemetry) == (
        "x/a/b",
        "telemetry/b/data",
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"config": config("other")}, "that of other"),
        ({"config": config(config_version=2), "serial": "SN-9"}, "serial number SN-9, here SN-1"),
    ],
)
async def test_a_configuration_of_another_device_is_refused(
    registry: DeviceRegistry, values: dict[str, Any], complaint: str
) -> None:
    await registry.pair(claim())
    with pytest.raises(OtherDeviceError, match=complaint):
        await change(registry, **values)
    assert known(registry, "press-07").config_version == 1


async def test_a_change_of_a_device_that_is_not_paired_here_is_an_error(registry: DeviceRegistry) -> None:
    with pytest.raises(UnknownDeviceError):
        await change(registry, enabled=True)


async def test_a_change_that_cannot_be_stored_leaves_the_names_it_wanted_free(tmp_path: Path) -> None:
    database = await Database.open(tmp_path)
    registry = await load(database)
    await registry.pair(claim("a", "SN-1"))
    before = known(registry, "a")
    await database.close()
    with pytest.raises(StoreUnavailableError):
        await change(registry, "a", config=config("a", topics={"telemetry": "x/{device}/b"}))
    assert known(registry, "a") is before
    assert registry._topics.conflict("b", TopicTemplates(telemetry="x/a/{device}").expand("b", "SN-2")) is None
    other = TopicTemplates(command="telemetry/a/{device}").expand("data", "SN-2")
    assert "belongs to device a" in str(registry._topics.conflict("data", other))


async def test_a_device_whose_topics_collided_is_mended_by_a_change(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim("a", "SN-1"))
    await registry.pair(claim("b", "SN-2", topics={"telemetry": "plant/{device}/x"}))
    again = await load(database, TopicTemplates(command="plant/{device}/x"))
    assert not known(again, "b").enabled
    device = await change(again, "b", config=config("b", config_version=2))
    assert (device.enabled, device.disabled_reason, device.topics.command) == (True, None, "plant/b/x")
    assert (await load(database, TopicTemplates(command="plant/{device}/x"))).get("b") == device


# --- rotation ------------------------------------------------------------------------------------------------


async def test_a_wish_for_a_new_secret_counts_the_generation_up_once(registry: DeviceRegistry) -> None:
    await registry.pair(claim(secret_version=3))
    await registry.note({"press-07": DeviceNote(generation=1)})
    assert (await change(registry, secret_version=3)).generation == 1, "the pairing has fulfilled it"
    assert (await change(registry, secret_version=4)).generation == 2
    assert (await change(registry, secret_version=4)).generation == 2
    assert (await change(registry, secret_version=2)).secret_version == 4
    device = known(registry, "press-07")
    assert [device.accepts(generation) for generation in (1, 2)] == [True, True]
    await registry.note({"press-07": DeviceNote(generation=2)})
    assert not known(registry, "press-07").accepts(1)


async def test_rotating_a_device_that_is_away_makes_one_secret_and_never_locks_it_out(registry: DeviceRegistry) -> None:
    await registry.pair(claim())
    await registry.note({"press-07": DeviceNote(generation=1)})
    for _ in range(20):
        await change(registry, rotate=True)
    device = known(registry, "press-07")
    assert (device.generation, device.accepts(1)) == (2, True)


async def test_rotating_a_device_that_never_takes_the_new_secret_does_not_lock_it_out_either(
    registry: DeviceRegistry,
) -> None:
    await registry.pair(claim())
    await registry.note({"press-07": DeviceNote(generation=1)})
    for _ in range(3 * VALID_GENERATIONS):
        device = await change(registry, rotate=True)
        await registry.note({"press-07": DeviceNote(told=told(generation=device.generation))})
    device = known(registry, "press-07")
    assert (device.generation, device.accepts(1)) == (VALID_GENERATIONS, True)


async def test_a_secret_that_was_told_is_not_given_out_for_the_next_wish(registry: DeviceRegistry) -> None:
    await registry.pair(claim())
    assert (await change(registry, rotate=True)).generation == 2
    await registry.note({"press-07": DeviceNote(told=told(generation=2))})
    assert (await change(registry, rotate=True)).generation == 3


# --- removal -------------------------------------------------------------------------------------------------


async def test_a_removed_device_is_gone_for_good_and_its_secrets_and_token_never_work_again(
    database: Database, registry: DeviceRegistry
) -> None:
    removed: list[str] = []
    registry.removed.append(lambda device: removed.append(device.device_id))
    await registry.pair(claim())
    await change(registry, rotate=True)
    assert await registry.remove(["press-07", "nobody", "press-07"]) == ["press-07"]
    assert (removed, registry.get("press-07"), registry.by_serial("SN-1")) == (["press-07"], None, None)
    assert await registry.remove(["press-07"]) == []
    assert len(await load(database)) == 0
    assert await registry.find_pairing("SN-1", b"t1") is not None
    await registry.pair(claim(token=b"t2"))
    device = known(registry, "press-07")
    assert (device.generation, device.previous_valid) == (3, False)


# --- earlier topics ------------------------------------------------------------------------------------------


def telemetry_of(device: Device) -> list[str]:
    return [each.telemetry for each in device.earlier]


async def test_earlier_topics_stay_the_devices_own_until_they_are_ended(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim("a", "SN-1", topics={"telemetry": "old/{device}"}))
    await registry.pair(claim("b", "SN-2"))
    device = await change(registry, "a", config=config("a", config_version=2, topics={"telemetry": "new/{device}"}))
    assert (device.topics.telemetry, telemetry_of(device)) == ("new/a", ["old/a"])
    for there in (registry, await load(database)):
        assert there.get("a") == device
        with pytest.raises(TopicsRefusedError, match="old/a belongs to device a"):
            await change(there, "b", config=config("b", topics={"config_request": "old/a"}))
    await registry.end_earlier(["a", "b", "nobody"])
    assert known(registry, "a").earlier == ()
    assert (await load(database)).get("a") == known(registry, "a")
    await change(registry, "b", config=config("b", topics={"config_request": "old/a"}))


async def tell(registry: DeviceRegistry, *, taken: bool = False) -> None:
    """The device is told what it should know; perhaps it acknowledges."""
    present = told(known(registry, "press-07"))
    await registry.note({"press-07": DeviceNote(told=present, taken=present if taken else None)})


async def change_topics(registry: DeviceRegistry, number: int) -> Device:
    """To version ``number`` with the topics ``t<number>``."""
    return await change(registry, config=config(config_version=number, topics={"telemetry": f"t{number}/{{device}}"}))


async def test_of_many_changes_the_topics_that_a_device_is_known_to_have_and_the_newest_it_was_told_are_kept(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim(topics={"telemetry": "t1/{device}"}))
    await tell(registry, taken=True)
    for number in range(2, 7):
        await change_topics(registry, number)
        await tell(registry)
    assert telemetry_of(known(registry, "press-07")) == ["t1/press-07", "t4/press-07", "t5/press-07"]
    await tell(registry, taken=True)
    device = await change_topics(registry, 7)
    assert telemetry_of(device)[0] == "t6/press-07"
    assert len(device.earlier) == EARLIER_TOPICS_KEPT
    assert (await load(database)).get("press-07") == known(registry, "press-07")
    # back to what it had: nothing is listed twice
    device = await change(registry, config=config(config_version=8, topics={"telemetry": "t6/{device}"}))
    assert "t6/press-07" not in telemetry_of(device)


async def test_topics_that_a_device_was_never_told_are_not_kept_for_it(registry: DeviceRegistry) -> None:
    await registry.pair(claim(topics={"telemetry": "t1/{device}"}))
    await tell(registry, taken=True)
    for number in range(2, 20):
        await change_topics(registry, number)
    assert telemetry_of(known(registry, "press-07")) == ["t1/press-07"]


async def test_topics_are_known_to_a_device_also_when_other_things_have_changed_since(
    registry: DeviceRegistry,
) -> None:
    await registry.pair(claim(topics={"telemetry": "t1/{device}"}))
    await tell(registry)
    await change(registry, config=config(config_version=2, topics={"telemetry": "t1/{device}"}, settings={"a": 1}))
    assert telemetry_of(await change_topics(registry, 3)) == ["t1/press-07"]


async def test_topics_that_the_settings_change_leave_the_former_ones_usable(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim())
    again = await load(database, TopicTemplates(telemetry="plant/{device}/t"))
    device = known(again, "press-07")
    assert (device.topics.telemetry, telemetry_of(device)) == ("plant/press-07/t", ["telemetry/press-07/data"])
    # and after another restart, and another change of the settings
    assert (await load(database, TopicTemplates(telemetry="plant/{device}/t"))).get("press-07") == device
    back = known(await load(database), "press-07")
    assert (back.topics.telemetry, back.earlier) == ("telemetry/press-07/data", ())


async def test_an_earlier_topic_gives_way_to_another_devices_present_one_at_the_start(
    database: Database, registry: DeviceRegistry
) -> None:
    await registry.pair(claim("a", "SN-1"))
    await registry.pair(claim("data", "SN-2", topics={"command": "z/{device}"}))
    # with these settings the second one's commands have the name that the first one's readings had
    new = TopicTemplates(telemetry="plant/{device}/t")
    row = {"device_id": "data", "topics": {"command": "telemetry/a/{device}"}}
    await database.run(lambda c: c.execute("UPDATE devices SET config = ? WHERE device_id = 'data'", (dumps(row),)))
    again = await load(database, new)
    assert known(again, "a").earlier == ()
    assert known(again, "data").topics.command == "telemetry/a/data"


@pytest.mark.parametrize("damage", ["{", "[1]", '[{"telemetry": "x"}]', "7", "null", '["a", "b", "c", "d"]'])
async def test_a_record_of_what_was_told_that_cannot_be_read_costs_the_device_nothing_else(
    database: Database, registry: DeviceRegistry, damage: str
) -> None:
    await registry.pair(claim())
    await database.run(
        lambda c: c.execute("UPDATE devices SET told = ?1, taken = ?1, topics = ?1, earlier = ?1", (damage,))
    )
    device = known(await load(database), "press-07")
    assert (device.enabled, device.told, device.taken, device.earlier) == (True, None, None, ())
