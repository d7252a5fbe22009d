"""Orders of updates: what is accepted, what is refused, how they reach the device, what a restart leaves of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.ota import SendUpdate
from appliance.contract.sync import PendingUpdate
from appliance.errors import RequestError
from appliance.store.update_rules import MAX_DELIVERIES
from tests.services.ota_kit import PARAMS, UpdateBench, running_updates


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[UpdateBench]:
    async with running_updates(tmp_path, ["d1", "d2"]) as bench:
        yield bench


async def refused(bench: UpdateBench, **order: Any) -> tuple[int, str]:
    body = {"device_id": "d1", "action": "start_update", "params": PARAMS, **order}
    with pytest.raises(RequestError) as error:
        await bench.service.send(SendUpdate.model_validate(body))
    await bench.settle()
    return error.value.status, error.value.code


def pending(**fields: Any) -> PendingUpdate:
    body = {"update_id": "u1", "device_id": "d1", "action": "start_update", "params": PARAMS, **fields}
    return PendingUpdate.model_validate(body)


# --- accepted and refused ---------------------------------------------------------------------------------------


async def test_the_same_order_again_gets_the_first_answer_whatever_has_become_of_it(bench: UpdateBench) -> None:
    assert await bench.order() == "fetching"
    bench.devices.devices.clear()
    assert await bench.order() == "fetching"
    await bench.service.cancel("u1")
    assert await bench.order() == "fetching"
    assert await bench.order(signature=None) == "fetching"
    assert await bench.told() == ["fetching", "queued", "cancelled"]


async def test_an_id_that_was_used_for_another_order_is_a_conflict(bench: UpdateBench) -> None:
    await bench.order()
    for other in ({"params": {**PARAMS, "version": "2.2.0"}}, {"device_id": "d2"}, {"action": "rollback"}):
        assert await refused(bench, update_id="u1", **other) == (409, "update_id_conflict")
    assert await bench.state() == "queued"


@pytest.mark.parametrize("params", [{"size": 10**30}, {"size": "large"}, {"sha256": {"a": 1}}, {"sha256": ["x"]}])
async def test_the_parameters_of_a_rollback_are_the_devices_alone_and_end_nothing_here(
    bench: UpdateBench, params: dict[str, Any]
) -> None:
    assert await bench.order(action="rollback", **params) == "queued"
    await bench.service.take(pending(update_id="u2", device_id="d2", action="rollback", params=params))
    status = await bench.service.status("u2")
    assert (status.state, status.sha256, status.size) == ("queued", None, None)
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.offers()[0]["params"] == params


async def test_a_device_has_one_update_at_a_time(bench: UpdateBench) -> None:
    await bench.order()
    assert await refused(bench, update_id="u2") == (409, "update_open")
    assert await refused(bench, update_id="r1", action="rollback") == (409, "update_open")
    await bench.order("u3", "d2")
    await bench.service.cancel("u1")
    await bench.order("u2")
    assert await bench.state("u2") == "queued"


@pytest.mark.parametrize(
    ("order", "status", "code"),
    [
        ({"device_id": "nobody"}, 404, "unknown_device"),
        ({"params": {}}, 422, "bad_request"),
        ({"params": {**PARAMS, "version": ""}}, 422, "bad_request"),
        ({"params": {**PARAMS, "sha256": "f" * 63}}, 422, "bad_request"),
        ({"params": {**PARAMS, "size": 0}}, 422, "bad_request"),
        ({"params": {**PARAMS, "url": "ftp://files/fw"}}, 422, "bad_request"),
        ({"params": {**PARAMS, "url": "file:///etc/shadow"}}, 422, "bad_request"),
        ({"params": {**PARAMS, "url": "//files/fw"}}, 422, "bad_request"),
        ({"params": {**PARAMS, "url": "http://user:secret@files/fw"}}, 422, "bad_request"),
        ({"params": {**PARAMS, "url": "http://files/f w"}}, 422, "bad_request"),
        ({"params": {**PARAMS, "url": "http://[::1/fw"}}, 422, "bad_request"),
        ({"params": {**PARAMS, "size": (1 << 20) + 1}}, 422, "firmware_too_large"),
        ({"params": {**PARAMS, "signature": "s" * 300}}, 422, "offer_too_large"),
        ({"action": "rollback", "params": {"note": "n" * 500}}, 422, "offer_too_large"),
        ({"action": "cancel_update", "params": {}}, 404, "unknown_update"),
        ({"action": "cancel_update", "params": {}, "update_id": "u9"}, 404, "unknown_update"),
    ],
)
async def test_what_cannot_be_carried_out_is_refused_before_anything_happens(
    bench: UpdateBench, order: dict[str, Any], status: int, code: str
) -> None:
    assert await refused(bench, **order) == (status, code)
    assert bench.on_disk("SELECT * FROM updates") == []
    assert bench.firmware.wishes == []


async def test_a_refusal_never_repeats_the_address(bench: UpdateBench) -> None:
    with pytest.raises(RequestError) as error:
        await bench.order(url="http://user:hidden-secret@files/fw")
    assert "hidden-secret" not in str(error.value)


async def test_a_device_that_is_switched_off_gets_no_update(bench: UpdateBench) -> None:
    bench.devices.devices["d1"].enabled = False
    assert await refused(bench) == (409, "device_disabled")


async def test_the_profile_states_the_largest_packet(bench: UpdateBench) -> None:
    bench.devices.add("small", max_packet_bytes=256)
    assert await refused(bench, device_id="small") == (422, "offer_too_large")
    assert await refused(bench, device_id="small", action="rollback", params={"x": "y" * 200}) == (
        422,
        "offer_too_large",
    )
    assert await bench.order("r1", "small", "rollback") == "queued"


async def test_every_offer_that_is_accepted_has_less_than_512_bytes(bench: UpdateBench) -> None:
    bench.broker.connect("d1")
    longest = 0
    for length in range(100, 200):
        try:
            await bench.order(f"u{length}", sha256=None, size=None, signature="s" * length)
        except RequestError as error:
            assert error.code == "offer_too_large"  # noqa: PT017 - both ends are wanted
            break
        sent = bench.broker.sent[-1]
        longest = len(sent.topic) + len(sent.payload)
        assert longest + 7 < 512  # fixed header, length of the topic, packet id
        sent.ack()
        await bench.report("cancelled", f"u{length}")
    assert longest > 500


async def test_there_is_a_bound_to_open_updates(bench: UpdateBench) -> None:
    bench.service.max_open = 1
    await bench.order()
    assert await refused(bench, device_id="d2") == (429, "queue_full")


async def test_an_order_without_id_gets_one(bench: UpdateBench) -> None:
    order = {"device_id": "d1", "action": "start_update", "params": PARAMS}
    status = await bench.service.send(SendUpdate.model_validate(order))
    assert len(status.update_id) == 36
    assert (await bench.service.status(status.update_id)).update_id == status.update_id


# --- to the device ----------------------------------------------------------------------------------------------


async def test_the_offer_goes_out_when_the_file_is_here_and_the_device_listens(bench: UpdateBench) -> None:
    bench.firmware.at_once = False
    bench.broker.connect("d1")
    await bench.order(sha256=None, size=None, signature="sig", channel=3)
    assert bench.broker.sent == []
    assert await bench.state() == "fetching"
    bench.firmware.arrive()
    await bench.settle()
    [offer] = bench.offers()
    params = offer["params"]
    url = params.pop("url")
    assert url.startswith(f"https://gw1.factory.lan:8000/firmware/{'a' * 64}?t=")
    assert offer == {
        "action": "start_update",
        "update_id": "u1",
        "params": {"version": "2.1.0", "size": 4711, "sha256": "a" * 64, "signature": "sig", "channel": 3},
    }
    assert bench.broker.sent[0].topic == "ota/d1/notify"


async def test_a_file_that_cannot_be_had_fails_the_update(bench: UpdateBench) -> None:
    bench.firmware.at_once = False
    await bench.order()
    bench.firmware.arrive("the server answers 404 Not Found")
    await bench.settle()
    assert await bench.state() == "failed/fetch*"
    assert (await bench.service.status("u1")).error == "the server answers 404 Not Found"
    assert await bench.told() == ["fetching", "failed"]
    assert bench.firmware.needed == set()


async def test_what_is_not_acknowledged_is_written_again_on_return_but_not_for_ever(bench: UpdateBench) -> None:
    await bench.order()
    for delivery in range(1, MAX_DELIVERIES + 1):
        bench.broker.connect("d1")
        bench.service.device_ready("d1")  # a device may subscribe again and again
        await bench.settle()
        assert len(bench.broker.sent) == delivery
        assert bench.broker.sent[-1].redelivery == (delivery > 1)
        bench.broker.disconnect("d1")
        await bench.settle()
    assert await bench.state() == "failed/no_ack*"
    assert len({delivered.payload for delivered in bench.broker.sent}) == 1
    bench.broker.connect("d1")
    await bench.settle()
    assert len(bench.broker.sent) == MAX_DELIVERIES
    assert await bench.told() == ["fetching", "queued", "offered", "failed"]


async def test_what_was_acknowledged_is_not_written_again_while_that_is_being_stored(bench: UpdateBench) -> None:
    bench.broker.connect("d1")
    await bench.order()
    bench.broker.sent[-1].ack()
    bench.service.device_ready("d1")
    bench.service.device_ready("d1")
    await bench.settle()
    assert len(bench.broker.sent) == 1
    assert await bench.state() == "delivered"


async def test_a_delivery_is_on_disk_before_its_bytes_go_out(bench: UpdateBench) -> None:
    seen: list[tuple[Any, ...]] = []
    bench.broker.look = lambda delivered: seen.extend(bench.on_disk("SELECT state, deliveries FROM updates"))
    bench.broker.connect("d1")
    await bench.order()
    assert seen == [("offered", 1)]


async def test_a_delivery_that_could_not_be_written_does_not_count(bench: UpdateBench) -> None:
    bench.broker.writes = False
    bench.broker.connect("d1")
    await bench.order()
    assert (await bench.service.status("u1")).deliveries == 0
    bench.broker.writes = True
    bench.service.device_ready("d1")
    await bench.settle()
    assert (await bench.service.status("u1")).deliveries == 1
    assert len(bench.broker.sent) == 1


@pytest.mark.parametrize("reboot", [False, True])
async def test_after_a_restart_each_update_goes_on_where_it_was(bench: UpdateBench, reboot: bool) -> None:
    bench.firmware.at_once = False
    await bench.order("fetched-later")
    bench.firmware.at_once = True
    await bench.order("offered", "d2")
    bench.broker.connect("d2")
    await bench.settle()
    before = bench.broker.sent[-1].payload
    await bench.restart(reboot=reboot)
    assert await bench.state("fetched-later") == "queued"
    assert await bench.state("offered") == "offered"
    bench.broker.connect("d1", "d2")
    await bench.settle()
    assert {delivered.device: delivered.redelivery for delivered in bench.broker.sent} == {"d1": False, "d2": True}
    assert before in [delivered.payload for delivered in bench.broker.sent]
    for delivered in bench.broker.sent:
        delivered.ack()
    await bench.settle()
    await bench.restart(reboot=reboot)
    bench.broker.connect("d1", "d2")
    await bench.settle()
    assert bench.broker.sent == []
    await bench.report("downloading", "offered", "d2", progress=70)
    await bench.restart(reboot=reboot)
    status = await bench.service.status("offered")
    assert (status.state, status.progress) == ("downloading", 70)
    await bench.service.cancel("offered")
    await bench.restart(reboot=reboot)
    bench.broker.connect("d2")
    await bench.settle()
    assert bench.offers()[-1] == {"action": "cancel_update", "update_id": "offered", "params": {}}


async def test_a_file_that_is_gone_after_a_restart_is_fetched_again(bench: UpdateBench) -> None:
    await bench.order("queued")
    bench.broker.connect("d2")
    await bench.order("told", "d2")
    bench.broker.sent[-1].ack()
    await bench.settle()
    bench.firmware.here.clear()
    bench.firmware.at_once = False
    await bench.restart()
    assert await bench.state("queued") == "fetching"
    assert await bench.state("told") == "delivered"
    assert len(bench.firmware.waiting) == 2
    bench.firmware.arrive()
    await bench.settle()
    assert await bench.state("queued") == "queued"
    assert await bench.state("told") == "delivered"


@pytest.mark.parametrize("serial", [None, "SN-2"])
async def test_an_update_is_for_the_machine_that_it_was_ordered_for(bench: UpdateBench, serial: str | None) -> None:
    bench.broker.connect("d1")
    await bench.order()
    bench.service.device_has("d1", "SN-1")
    await bench.settle()
    assert await bench.state() == "offered"
    bench.service.device_has("d1", serial)
    bench.service.device_has("d2", serial)
    await bench.settle()
    assert await bench.state() == "failed/unpaired*"
    assert (await bench.told())[-1] == "failed"


# --- cancelling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["fetching", "queued"])
async def test_what_the_device_has_not_heard_of_ends_at_once(bench: UpdateBench, state: str) -> None:
    bench.firmware.at_once = state == "queued"
    await bench.order()
    status = await bench.service.cancel("u1")
    assert (status.state, status.settled) == ("cancelled", True)
    assert (await bench.service.cancel("u1")).state == "cancelled"
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.sent == []
    assert bench.firmware.needed == set()
    assert (await bench.told())[-1] == "cancelled"


async def test_a_device_that_was_told_is_told_to_stop(bench: UpdateBench) -> None:
    bench.broker.connect("d1")
    await bench.order()
    offer = bench.broker.sent[-1]
    order = {"device_id": "d1", "action": "cancel_update"}
    status = await bench.service.send(SendUpdate.model_validate(order))
    assert (status.update_id, status.state) == ("u1", "cancelling")
    await bench.settle()
    assert bench.offers()[-1] == {"action": "cancel_update", "update_id": "u1", "params": {}}
    offer.ack()  # late, and of the offer
    await bench.settle()
    bench.broker.disconnect("d1")
    bench.broker.connect("d1")
    await bench.settle()
    assert [offer["action"] for offer in bench.offers()] == ["start_update", "cancel_update", "cancel_update"]
    bench.broker.sent[-1].ack()
    await bench.settle()
    await bench.report("downloading", progress=3)
    assert await bench.state() == "cancelling"
    await bench.report("cancelled")
    assert await bench.state() == "cancelled*"
    bench.broker.disconnect("d1")
    bench.broker.connect("d1")
    await bench.settle()
    assert len(bench.broker.sent) == 3


async def test_what_cannot_be_stopped_any_more_ends_as_the_device_says(bench: UpdateBench) -> None:
    bench.broker.connect("d1")
    await bench.order()
    await bench.service.cancel("u1")
    await bench.report("installed", version="2.1.0")
    assert await bench.state() == "installed*"
    with pytest.raises(RequestError) as error:
        await bench.service.cancel("u1")
    assert (error.value.status, error.value.code) == (409, "update_final")
    order = {"device_id": "d1", "action": "cancel_update", "update_id": "u1"}
    assert await refused(bench, **{**order, "params": {}}) == (409, "update_final")


async def test_another_devices_update_cannot_be_cancelled_by_order(bench: UpdateBench) -> None:
    await bench.order()
    assert await refused(bench, device_id="d2", action="cancel_update", update_id="u1") == (404, "unknown_update")
    assert await bench.state() == "queued"


# --- with a sync ------------------------------------------------------------------------------------------------


async def test_an_order_from_a_sync_is_the_same_as_one_that_was_pushed(bench: UpdateBench) -> None:
    await bench.order()
    for _ in range(3):
        await bench.service.take(pending(params={**PARAMS, "signature": False}))
    await bench.settle()
    assert await bench.told() == ["fetching", "queued"]
    await bench.service.take(pending(action="cancel_update", params={}))
    await bench.service.take(pending(action="cancel_update", params={}))
    assert await bench.told() == ["fetching", "queued", "cancelled"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"device_id": "nobody"}, "unknown_device"),
        ({"params": {**PARAMS, "url": "ftp://x/y"}}, "bad_request"),
        ({"update_id": "an id with spaces"}, "update_id"),
        ({"params": {**PARAMS, "size": 1 << 40}}, "firmware_too_large"),
    ],
)
async def test_a_refusal_becomes_a_message_for_odoo_once(
    bench: UpdateBench, fields: dict[str, Any], error: str
) -> None:
    order = pending(**fields)
    for _ in range(3):
        await bench.service.take(order)
    await bench.restart()
    await bench.service.take(order)
    [message] = (await bench.buffer.take()).messages
    body = json.loads(message.payload)
    assert message.device == order.device_id
    assert (body["update_id"], body["state"], body["reason"]) == (order.update_id, "failed", "refused")
    assert body["error"].startswith(error)
    assert body["source"] == "appliance"
    assert bench.service.open_total == 0


async def test_an_update_that_waits_for_another_is_refused_and_can_be_ordered_anew(bench: UpdateBench) -> None:
    await bench.order()
    await bench.service.take(pending(update_id="u2"))
    assert await bench.told("u2") == ["failed"]
    assert await bench.state() == "queued"


async def test_a_cancellation_of_what_is_not_known_is_answered_once_and_keeps_the_order_out(bench: UpdateBench) -> None:
    cancellation = pending(action="cancel_update", params={})
    await bench.service.take(cancellation)
    await bench.service.take(cancellation)
    await bench.service.take(pending())
    assert await bench.told() == ["cancelled"]
    assert await bench.state() == "cancelled/unknown_update*"
    assert await refused(bench, update_id="u1") == (409, "update_id_conflict")


async def test_a_contradiction_from_a_sync_changes_nothing(bench: UpdateBench) -> None:
    await bench.order()
    await bench.service.take(pending(params={**PARAMS, "version": "9"}))
    assert await bench.told() == ["fetching", "queued"]


async def test_what_is_too_much_now_is_not_refused_for_ever(bench: UpdateBench) -> None:
    bench.service.max_open = 0
    await bench.service.take(pending())
    assert await bench.told() == []
    bench.service.max_open = 10
    await bench.service.take(pending())
    await bench.settle()
    assert await bench.state() == "queued"
