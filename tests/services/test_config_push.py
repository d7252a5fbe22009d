"""Paired devices are told what they do not know: by themselves, durably, and never a secret that is not theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.device import ConfigRequest
from appliance.contract.topics import TopicTemplates
from appliance.errors import OdooUnavailableError, StoreUnavailableError
from appliance.services.config_push import PushLimits
from appliance.store.devices import DeviceNote
from tests.services.config_kit import CREDENTIALS, Box, opened
from tests.store.support import ManualClock

HOUR_S = 3600.0


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with opened(tmp_path) as box:
        yield box


async def quiet(box: Box, *, after: int) -> None:
    """Nothing more was sent than the first ``after`` deliveries."""
    await box.settled()
    assert len(box.broker.sent) == after


# --- changes -------------------------------------------------------------------------------------------------


async def test_a_device_that_has_just_been_paired_is_told_nothing_twice(box: Box) -> None:
    await box.pair_fully()
    await quiet(box, after=0)
    box.broker.login("press-07")
    await quiet(box, after=0)


async def test_a_connected_device_is_told_its_new_configuration_and_once_it_has_it_never_again(box: Box) -> None:
    await box.pair_fully()
    await box.change(config={"config_version": 2, "settings": {"telemetry_interval_s": 5}})
    told = await box.delivery(1)
    assert (told.topic, told.version, told.password) == ("iiot/config/SN-1", 2, None)
    assert told.answer["settings"] == {"telemetry_interval_s": 5}
    assert "request_id" not in told.answer
    await box.settled()
    assert not box.push.is_current(box.device())
    assert box.device().told is not None
    told.ack()
    await box.settled()
    assert box.push.is_current(box.device())
    device = box.device()
    assert device.taken is not None
    assert (device.taken.version, device.taken.generation) == (2, 1)
    for _ in range(3):
        box.broker.login("press-07")
    await quiet(box, after=1)


async def test_a_device_that_was_away_is_told_when_it_comes_back_also_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as box:
        await box.pair_fully()
        box.broker.logout("press-07")
        await box.change(config={"config_version": 2})
        await box.change(config={"config_version": 3})
        await quiet(box, after=0)
    clock.forward(30 * 86_400)
    async with opened(tmp_path, clock=clock) as box:
        box.broker.login("press-07")
        told = await box.delivery(1)
        assert told.version == 3, "the present configuration, and that alone"
        told.ack()
        await box.settled()
    async with opened(tmp_path, clock=clock) as box:
        box.broker.login("press-07")
        await quiet(box, after=0)


async def test_what_was_told_and_not_acknowledged_is_told_again_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.pair_fully()
        await box.change(config={"config_version": 2})
        await box.delivery(1)
        await box.settled()
    async with opened(tmp_path) as box:
        box.broker.login("press-07")
        assert (await box.delivery(1)).version == 2


async def test_only_one_delivery_is_in_flight_and_a_newer_configuration_replaces_what_waits(box: Box) -> None:
    await box.pair_fully()
    await box.change(config={"config_version": 2})
    first = await box.delivery(1)
    for version in range(3, 8):
        await box.change(config={"config_version": version})
    await quiet(box, after=1)
    first.ack()
    second = await box.delivery(2)
    assert second.version == 7
    # an acknowledgement that comes twice changes nothing
    first.ack()
    await box.settled()
    assert not box.push.is_current(box.device())
    second.ack()
    await quiet(box, after=2)
    assert box.push.is_current(box.device())


async def test_an_acknowledgement_on_a_connection_that_has_ended_counts_for_nothing(box: Box) -> None:
    await box.pair_fully()
    await box.change(config={"config_version": 2})
    first = await box.delivery(1)
    box.broker.login("press-07")
    second = await box.delivery(2)
    first.ack()
    await box.settled()
    assert not box.push.is_current(box.device())
    second.ack()
    await box.settled()
    assert box.push.is_current(box.device())


async def test_what_could_not_be_written_goes_out_when_the_device_can_be_reached_again(box: Box) -> None:
    await box.pair_fully()
    box.broker.deaf.add("press-07")
    await box.change(config={"config_version": 2})
    await quiet(box, after=0)
    box.broker.deaf.clear()
    box.push.device_ready("press-07")
    assert (await box.delivery(1)).version == 2


async def test_a_device_that_has_not_subscribed_is_told_nothing(box: Box) -> None:
    await box.pair_fully()
    box.broker.login("press-07", subscribe=False)
    await box.change(config={"config_version": 2})
    await quiet(box, after=0)
    box.broker.subscribe("press-07")
    assert (await box.delivery(1)).version == 2


async def test_a_device_that_never_acknowledges_is_told_three_times_and_then_once_an_hour(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as box:
        await box.pair_fully()
        await box.change(config={"config_version": 2})
        await box.delivery(1)
        for _ in range(50):
            box.broker.subscribe("press-07")  # on one connection once, however often it subscribes
        await quiet(box, after=1)
        for _ in range(50):
            box.broker.login("press-07")
            await box.settled()
        await quiet(box, after=3)
        clock.forward(HOUR_S - 1)
        await box.push.sweep()
        await quiet(box, after=3)
        clock.forward(1)
        await box.push.sweep()
        await quiet(box, after=4)
        for _ in range(10):
            box.broker.login("press-07")
            await box.settled()
        await quiet(box, after=4)
        # something new is told at once
        await box.change(config={"config_version": 3})
        await quiet(box, after=5)
        (await box.delivery(5)).ack()
        await box.settled()
        assert len(box.push._tries) == 0


async def test_settings_of_the_appliance_are_part_of_what_devices_are_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.pair_fully()
    async with opened(tmp_path, host="gw2.factory.lan") as box:
        box.broker.login("press-07")
        assert (await box.delivery(1)).answer["mqtt"]["host"] == "gw2.factory.lan"
    async with opened(tmp_path, templates=TopicTemplates(telemetry="plant/{device}/t")) as box:
        box.broker.login("press-07")
        assert (await box.delivery(1)).answer["topics"]["telemetry"] == "plant/press-07/t"


async def test_what_exceeds_the_devices_packet_is_not_sent_and_shown(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    await box.pair_fully()
    await box.change(config={"config_version": 2, "max_packet_bytes": 256})
    for _ in range(5):
        box.broker.login("press-07")
    await quiet(box, after=0)
    assert "ask over HTTP" in str(box.push.problem("press-07"))
    assert caplog.text.count("cannot be told its configuration") == 1
    # over HTTP it gets it, and its next login tells that it has it
    box.pairing.current(box.device(), generation=1)
    box.broker.login("press-07")
    await box.settled()
    assert box.push.is_current(box.device())
    await box.change(config={"config_version": 3})
    assert box.push.problem("press-07") is None
    assert (await box.delivery(1)).version == 3


async def test_a_device_that_is_switched_off_is_told_nothing_until_it_is_let_in_again(box: Box) -> None:
    await box.pair_fully()
    await box.change(enabled=False, config={"config_version": 2})
    await quiet(box, after=0)
    assert not box.broker.connections
    await box.change(enabled=True)
    box.broker.login("press-07")
    assert (await box.delivery(1)).version == 2


# --- secrets -------------------------------------------------------------------------------------------------


async def test_a_rotated_secret_is_told_and_ends_the_old_one_at_its_first_login(box: Box) -> None:
    await box.pair_fully()
    await box.change(secret_version=1)
    told = await box.delivery(1)
    assert told.password == CREDENTIALS.password("press-07", 2)
    told.ack()
    await quiet(box, after=1)
    # the answer may have got lost in the device: the old secret still opens, and it is told again
    box.broker.login("press-07", 1)
    again = await box.delivery(2)
    assert again.password == told.password
    again.ack()
    box.broker.login("press-07", 2)
    await box.settled()
    assert [box.device().accepts(generation) for generation in (1, 2)] == [False, True]
    with pytest.raises(AssertionError, match="door is closed"):
        box.broker.login("press-07", 1)
    await quiet(box, after=2)


async def test_a_clone_with_the_old_secret_is_thrown_out_when_the_device_uses_the_new_one(box: Box) -> None:
    await box.pair_fully()
    await box.changes.rotate("press-07")
    (await box.delivery(1)).ack()
    box.broker.login("press-07", 1)
    # what note_login stores while a connection with an earlier secret is open ends that connection
    box.pairing.note_login("press-07", 2)
    await box.settled()
    assert not box.broker.connections


async def test_a_device_that_is_away_while_its_secret_is_rotated_again_and_again_gets_in_and_is_told(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as box:
        await box.pair_fully()
        box.broker.logout("press-07")
    for month in range(1, 13):
        clock.forward(30 * 86_400)
        async with opened(tmp_path, clock=clock) as box:
            await box.change(secret_version=month)
    async with opened(tmp_path, clock=clock) as box:
        box.broker.login("press-07", 1)
        told = await box.delivery(1)
        assert told.password == CREDENTIALS.password("press-07", box.device().generation)


async def test_what_came_with_a_new_token_is_not_told_to_who_has_an_older_secret(box: Box) -> None:
    await box.pair_fully()
    # a new token, because somebody else may have the secret
    box.odoo.issue("T-2", "SN-1", "press-07")
    await box.pairing.answer(ConfigRequest(serial="SN-1", token="T-2", request_id="r2"), source_address="10.0.0.1")
    box.broker.login("press-07", 1)
    await quiet(box, after=0)
    # nor what is rotated after it
    await box.changes.rotate("press-07")
    await box.change(config={"config_version": 2})
    told = await box.delivery(1)
    assert told.password is None
    assert box.pairing.current(box.device(), generation=1).mqtt.password is None
    # the token's holder gets it
    box.broker.login("press-07", 2)
    assert (await box.delivery(2)).password == CREDENTIALS.password("press-07", 3)


async def test_a_secret_is_never_told_to_who_has_it(box: Box) -> None:
    await box.pair_fully()
    assert box.pairing.current(box.device(), generation=1).mqtt.password is None
    await box.changes.rotate("press-07")
    assert box.pairing.current(box.device(), generation=1).mqtt.password == CREDENTIALS.password("press-07", 2)
    assert box.pairing.current(box.device(), generation=2).mqtt.password is None


async def test_an_answer_over_http_proves_nothing_and_the_device_is_told_once_more(box: Box) -> None:
    await box.pair_fully()
    box.broker.logout("press-07")
    await box.change(config={"config_version": 2})
    box.pairing.current(box.device(), generation=1)
    box.broker.login("press-07")
    assert (await box.delivery(1)).version == 2


async def test_a_login_with_a_secret_that_was_told_over_http_proves_that_its_answer_arrived(box: Box) -> None:
    await box.pair_fully()
    box.broker.logout("press-07")
    await box.change(config={"config_version": 2}, secret_version=1)
    box.pairing.current(box.device(), generation=1)
    await box.settled()
    # a second one, with a newer configuration, may get lost
    await box.change(config={"config_version": 3})
    box.pairing.current(box.device(), generation=1)
    box.broker.login("press-07", 2)
    assert (await box.delivery(1)).version == 3


async def test_who_got_secret_and_configuration_over_http_is_told_nothing_twice(box: Box) -> None:
    await box.pair_fully()
    box.broker.logout("press-07")
    await box.change(config={"config_version": 2}, secret_version=1)
    box.pairing.current(box.device(), generation=1)
    box.broker.login("press-07", 2)
    await quiet(box, after=0)
    assert box.push.is_current(box.device())


async def test_a_repeated_pairing_answer_proves_nothing_once_the_device_has_logged_in(box: Box) -> None:
    await box.pair_fully()
    box.broker.logout("press-07")
    await box.change(config={"config_version": 2})
    repeat = ConfigRequest(serial="SN-1", token="T-SN-1", request_id="r1")
    assert (await box.pairing.answer(repeat, source_address="10.0.0.1")).status == "ok"
    box.broker.login("press-07")
    assert (await box.delivery(1)).version == 2


async def test_a_pairing_answer_that_got_lost_proves_nothing(box: Box) -> None:
    await box.pair_fully()
    box.broker.logout("press-07")
    box.odoo.issue("T-2", "SN-1", "press-07", config_version=5)
    await box.pairing.answer(ConfigRequest(serial="SN-1", token="T-2", request_id="r2"), source_address="10.0.0.1")
    # it comes with its old secret: it has not got that answer
    box.broker.login("press-07", 1)
    told = await box.delivery(1)
    assert (told.version, told.password) == (5, None)


# --- earlier topics ------------------------------------------------------------------------------------------

NEW = {"config_version": 2, "topics": {"telemetry": "new/{device}/t"}}


async def test_earlier_topics_end_an_hour_after_a_login_that_knows_the_new_ones(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as box:
        await box.pair_fully()
        await box.change(config=NEW)
        told = await box.delivery(1)
        for _ in range(3):
            clock.forward(30 * 86_400)
            await box.push.sweep()
            assert len(box.device().earlier) == 1, "it has not acknowledged"
        told.ack()
        await box.settled()
        clock.forward(30 * 86_400)
        await box.push.sweep()
        assert len(box.device().earlier) == 1, "it has not logged in since, so it may not use them yet"
        box.broker.login("press-07")
        clock.forward(HOUR_S - 1)
        await box.push.sweep()
        assert len(box.device().earlier) == 1, "what it could not send before carries the old names"
        clock.forward(1)
        await box.push.sweep()
        assert box.device().earlier == ()
    async with opened(tmp_path, clock=clock) as box:
        assert box.device().earlier == ()


async def test_topics_that_change_once_more_within_the_hour_keep_the_earlier_ones(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as box:
        box.broker.acknowledges = True
        await box.pair_fully()
        await box.change(config=NEW)
        await box.delivery(1)
        await box.settled()
        box.broker.login("press-07")
        box.broker.acknowledges = False
        await box.change(config={"config_version": 3, "topics": {"telemetry": "newer/{device}/t"}})
        clock.forward(HOUR_S)
        await box.push.sweep()
        assert [each.telemetry for each in box.device().earlier] == ["new/press-07/t", "telemetry/press-07/data"]


async def test_a_login_before_the_acknowledgement_does_not_begin_the_hour(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as box:
        await box.pair_fully()
        box.broker.logout("press-07")
        await box.change(config=NEW)
        box.broker.login("press-07")
        (await box.delivery(1)).ack()
        await box.settled()
        clock.forward(2 * HOUR_S)
        await box.push.sweep()
        assert len(box.device().earlier) == 1


async def test_a_login_with_topics_that_are_not_the_newest_does_not_begin_the_hour_of_the_newest(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as box:
        box.broker.acknowledges = True
        await box.pair_fully()
        await box.change(config=NEW)
        await box.delivery(1)
        await box.settled()
        box.broker.login("press-07")
        await box.change(config={"config_version": 3, "topics": {"telemetry": "newer/{device}/t"}})
        await box.delivery(2)
        await box.settled()
        assert box.push.is_current(box.device())
        clock.forward(2 * HOUR_S)
        await box.push.sweep()
        assert len(box.device().earlier) == 2
        box.broker.login("press-07")
        clock.forward(HOUR_S)
        await box.push.sweep()
        assert box.device().earlier == ()


async def test_a_device_that_comes_back_with_its_old_topics_after_a_restart_still_has_them(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await box.pair_fully()
        box.broker.logout("press-07")
        await box.change(config=NEW)
    clock = ManualClock()
    clock.forward(365 * 86_400)
    async with opened(tmp_path, clock=clock) as box:
        await box.push.sweep()
        assert [each.telemetry for each in box.device().earlier] == ["telemetry/press-07/data"]


# --- being asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"serial": "SN-1"}'])
async def test_a_paired_connection_gets_its_configuration_without_secret_also_when_odoo_is_away(
    box: Box, payload: bytes
) -> None:
    await box.pair_fully()
    box.odoo.fail = OdooUnavailableError("away")
    box.push.accept_request("press-07", payload)
    told = await box.delivery(1)
    assert (told.answer["status"], told.answer["device_id"], told.password) == ("ok", "press-07", None)


async def test_a_device_that_asks_is_told_what_it_does_not_know_once(box: Box) -> None:
    await box.pair_fully()
    box.broker.logout("press-07")
    await box.change(config={"config_version": 2}, secret_version=1)
    box.broker.login("press-07", 1)
    box.push.accept_request("press-07", b'{"request_id": "q1", "ca_pem": true}')
    told = await box.delivery(1)
    assert (told.answer["request_id"], told.version) == ("q1", 2)
    assert told.password == CREDENTIALS.password("press-07", 2)
    assert "ca_pem" in told.answer["mqtt"]
    await quiet(box, after=1)
    told.ack()
    await quiet(box, after=1)
    assert box.push.is_current(box.device())


async def test_a_paired_connection_cannot_ask_for_another_serial_number(box: Box) -> None:
    await box.pair_fully()
    box.odoo.issue("T-2", "SN-2", "press-08")
    box.push.accept_request("press-07", json.dumps({"serial": "SN-2", "token": "T-2"}).encode())
    assert (await box.delivery(1)).answer["code"] == "bad_request"
    assert box.registry.get("press-08") is None


async def test_a_paired_connection_with_a_new_token_gets_a_new_secret(box: Box) -> None:
    await box.pair_fully()
    box.odoo.issue("T-2", "SN-1", "press-07")
    box.push.accept_request("press-07", json.dumps({"token": "T-2", "request_id": "r2"}).encode())
    assert (await box.delivery(1)).password == CREDENTIALS.password("press-07", 2)


async def test_the_secret_that_comes_with_a_new_token_goes_to_no_connection_but_the_one_that_asked(box: Box) -> None:
    await box.pair_fully()
    box.odoo.issue("T-2", "SN-1", "press-07")
    box.odoo.open.clear()
    box.push.accept_request("press-07", json.dumps({"token": "T-2", "request_id": "r2"}).encode())
    async with asyncio.timeout(10):
        while not box.odoo.waiting:
            await asyncio.sleep(0)
    # while Odoo is being asked, somebody else takes over who has the old secret, the thief perhaps
    box.broker.login("press-07", 1)
    box.odoo.open.set()
    async with asyncio.timeout(10):
        while box.device().generation == 1:
            await box.database.run(lambda connection: None)
    while box.pairing._requests:
        await asyncio.sleep(0)
    await box.settled()
    assert [each.answer for each in box.broker.sent if each.password is not None] == []
    # the same request, on the connection of who has the token
    box.push.accept_request("press-07", json.dumps({"token": "T-2", "request_id": "r2"}).encode())
    while box.pairing._requests:
        await asyncio.sleep(0)
    assert [each.password for each in box.broker.sent if each.password is not None] == [
        CREDENTIALS.password("press-07", 2)
    ]


async def test_the_firmware_version_that_a_paired_device_names_is_kept(box: Box) -> None:
    await box.pair_fully()
    box.push.accept_request("press-07", b'{"firmware_version": "2.0.0", "hardware": "rev-b"}')
    await box.settled()
    assert (box.device().firmware_version, box.device().hardware) == ("2.0.0", "rev-b")


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"[]", b"null", b'{"token": 7}', b'{"request_id": ""}'])
async def test_a_bad_request_of_a_paired_device_is_answered(box: Box, payload: bytes) -> None:
    await box.pair_fully()
    box.push.accept_request("press-07", payload)
    assert (await box.delivery(1)).answer["code"] == "bad_request"


async def test_requests_of_one_device_are_limited_and_it_is_told_so_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock, limits=PushLimits(pause_s=0, requests=3)) as box:
        await box.pair_fully()
        for _ in range(1000):
            box.push.accept_request("press-07", b"{}")
        answers: list[dict[str, Any]] = [each.answer for each in box.broker.sent]
        assert [answer["status"] for answer in answers] == ["ok", "ok", "ok", "error"]
        assert (answers[-1]["code"], answers[-1]["retry_after_s"]) == ("rate_limited", 60)
        clock.forward(60)
        box.push.accept_request("press-07", b"{}")
        assert box.broker.sent[-1].answer["status"] == "ok"


async def test_an_answer_that_is_asked_for_and_exceeds_the_packet_is_an_error_instead_of_silence(box: Box) -> None:
    await box.pair_fully(max_packet_bytes=256)
    box.push.accept_request("press-07", b'{"request_id": "q1"}')
    answer = (await box.delivery(1)).answer
    assert (answer["code"], answer["request_id"]) == ("bad_request", "q1")
    assert "ask over HTTP" in answer["message"]


async def test_nobody_is_told_who_has_lost_the_pairing_and_nothing_of_him_is_kept(box: Box) -> None:
    await box.pair_fully()
    await box.change(config=NEW)
    told = await box.delivery(1)
    await box.changes.remove("press-07")
    told.ack()
    box.push.accept_request("press-07", b"{}")
    box.push.device_ready("press-07")
    box.push.logged_in("press-07", 1)
    await quiet(box, after=1)
    memories = (box.push._connections, box.push._due, box.push._held, box.push._problems, box.push._tries)
    assert [len(memory) for memory in memories] == [0] * len(memories)  # type: ignore[arg-type]


async def test_a_login_ends_the_earlier_secret_also_where_nothing_could_be_stored_at_that_moment(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.pair_fully()
    await box.changes.rotate("press-07")
    await box.settled()
    note, failures = box.registry.note, []

    async def on_a_full_disk(notes: Mapping[str, DeviceNote]) -> None:
        if len(failures) < 10:
            failures.append(dict(notes))
            raise StoreUnavailableError("the disk is full")
        await note(notes)

    monkeypatch.setattr(box.registry, "note", on_a_full_disk)
    monkeypatch.setattr(box.pairing.notes, "_retry_s", 0.0)
    box.broker.login("press-07", 2)
    await box.settled()
    assert len(failures) == 10
    assert not box.device().previous_valid
    assert box.device().login_generation == 2
