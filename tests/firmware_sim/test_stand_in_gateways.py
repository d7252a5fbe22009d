"""The stand-in's switches for gateways: waiting work, changes of devices, enrolment, backups and copies."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.firmware_sim.test_stand_in import FakeAppliance, Side, opened, report, with_appliance

GATEWAY = "g"


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with opened() as one:
        await one.sim("POST", "devices", {"prefix": "press", "count": 3})
        yield one


def request(**more: Any) -> dict[str, Any]:
    epoch = {"epoch": str(uuid.UUID(int=1)), "last_seq": 0, "floor": 1, "settled": 0, "stored": 0}
    told: dict[str, Any] = {
        "name": "line 1",
        "version": "1",
        "time": "…",
        "uptime_s": 1,
        "start": str(uuid.UUID(int=2)),
    }
    told["starts"] = [{"start": told["start"], "first_seq": 1}]
    return {"contract": 1, "gateway": GATEWAY, "epochs": [epoch], **told, **more}


async def sync(side: Side, **more: Any) -> dict[str, Any]:
    answer = await side.http.post("/iiot/gateway/sync", json=request(**more))
    told: dict[str, Any] = answer.raise_for_status().json()
    return told


async def pair(side: Side, number: int) -> str:
    device = f"press-{number:03d}"
    token = (await side.sim("POST", f"devices/{device}/tokens"))["token"]
    body = {"serial": f"SN-{device}", "token": token, "request_id": "r"}
    (await side.http.post("/iiot/config", json=body)).raise_for_status()
    return device


async def order(side: Side, **more: Any) -> str:
    body = {"device_id": "press-001", "action": "reset", "push": False, **more}
    return str((await side.sim("POST", "commands", body))["command_id"])


async def test_a_command_that_is_not_pushed_is_offered_with_each_sync_until_its_state_arrives(side: Side) -> None:
    command = await order(side, params={"delay": 5}, expires_in_s=30)
    side.clock.seconds += 10
    for _ in range(2):
        (offered,) = (await sync(side))["commands"]
        assert offered == {
            "command_id": command,
            "device_id": "press-001",
            "action": "reset",
            "params": {"delay": 5},
            "expires_in_s": 20.0,
        }
    await report(side, 1, "command_state", {"command_id": command, "state": "queued"})
    assert (await sync(side))["commands"] == []


async def test_commands_are_offered_in_the_order_in_which_they_were_made_and_a_long_list_in_parts(side: Side) -> None:
    commands = [await order(side) for _ in range(150)]
    answer = await sync(side)
    assert [command["command_id"] for command in answer["commands"]] == commands[:100]
    assert answer["more"] is True


async def test_a_command_that_nobody_fetches_in_time_expires(side: Side) -> None:
    command = await order(side, expires_in_s=30)
    side.clock.seconds += 31
    assert (await sync(side))["commands"] == []
    assert (await side.sim("GET", f"commands/{command}"))["state"] == "expired"


async def test_a_command_that_cannot_be_pushed_waits_and_one_that_is_refused_does_not(side: Side) -> None:
    side.stand_in.commands.first_pause_s = 0.0
    await with_appliance(side, FakeAppliance(503, 503, 503, 503, 404))
    waiting = await order(side, push=True)
    await order(side, push=True)
    assert [command["command_id"] for command in (await sync(side))["commands"]] == [waiting]


async def test_a_command_is_cancelled_here_or_once_it_was_offered_at_the_appliance(side: Side) -> None:
    never_seen, seen = await order(side), await order(side)
    await side.sim("DELETE", f"commands/{never_seen}")
    assert (await side.sim("GET", f"commands/{never_seen}"))["state"] == "cancelled"
    await sync(side)
    await side.sim("DELETE", f"commands/{seen}")
    answer = await sync(side)
    assert answer["cancel_commands"] == [seen]
    assert [command["command_id"] for command in answer["commands"]] == [seen]
    await report(side, 1, "command_state", {"command_id": seen, "state": "cancelled"})
    assert (await sync(side))["cancel_commands"] == []


async def test_an_update_is_offered_until_its_status_arrives(side: Side) -> None:
    params = {"url": "http://odoo/firmware", "version": "2.0"}
    ordered = await side.sim("POST", "updates", {"device_id": "press-001", "params": params})
    update = {"update_id": ordered["update_id"], "device_id": "press-001", "action": "start_update", "params": params}
    assert (await sync(side))["updates"] == [update]
    assert (await sync(side))["updates"] == [update]
    await report(side, 1, "ota_status", {"update_id": ordered["update_id"], "state": "accepted"})
    assert (await sync(side))["updates"] == []
    seen = await side.sim("GET", f"updates/{ordered['update_id']}")
    assert (seen["state"], seen["waiting"]) == ("accepted", False)


async def test_the_answer_to_a_batch_says_whether_there_is_work(side: Side) -> None:
    assert (await side.post(1)).json()["work"] is False, "a gateway that never synced would not understand it"
    await sync(side)
    assert (await side.post(2)).json()["work"] is False
    await order(side)
    assert (await side.post(3)).json()["work"] is True
    await sync(side)
    assert (await side.post(4)).json()["work"] is False


async def test_changes_of_devices_come_after_the_cursor_and_make_work(side: Side) -> None:
    device = await pair(side, 1)
    cursor = (await sync(side))["cursor"]
    await sync(side, cursor=cursor)
    await side.sim("PATCH", f"devices/{device}", {"settings": {"telemetry_interval_s": 1}, "rotate": True})
    assert (await side.post(1)).json()["work"] is True
    answer = await sync(side, cursor=cursor)
    (change,) = answer["devices"]
    assert (change["secret_version"], change["config"]["config_version"]) == (1, 2)
    assert change["config"]["settings"] == {"telemetry_interval_s": 1}
    await sync(side, cursor=answer["cursor"])
    assert (await side.post(2)).json()["work"] is False


async def test_a_device_that_lost_its_pairing_is_revoked_until_it_is_paired_anew(side: Side) -> None:
    device = await pair(side, 1)
    cursor = (await sync(side))["cursor"]
    await side.sim("DELETE", f"devices/{device}/pairing")
    answer = await sync(side, cursor=cursor)
    assert (answer["devices"], answer["revoked"]) == ([], [device])
    await pair(side, 1)
    answer = await sync(side)
    assert ([change["device_id"] for change in answer["devices"]], answer["revoked"]) == ([device], [])


async def test_a_long_list_of_devices_comes_in_parts_and_none_is_left_out(side: Side) -> None:
    await side.sim("POST", "devices", {"prefix": "more", "count": 7})
    rows = side.stand_in.state
    rows.connection.execute("UPDATE devices SET paired_at_ms = 1")
    side.stand_in.feed.at_a_time = 4
    told: list[str] = []
    cursor = None
    for _ in range(20):
        answer = await sync(side, cursor=cursor)
        told += [device["device_id"] for device in answer["devices"]]
        if cursor is None:
            await side.sim("PATCH", "devices/more-001", {"enabled": False})
        cursor = answer["cursor"]
        if not answer["more"]:
            break
    assert len(set(told)) == 10
    assert told.count("more-001") == 2, "what changed while the list was read came afterwards"


async def test_a_cursor_from_before_a_restore_is_told_from_a_later_one_with_the_same_number(side: Side) -> None:
    device = await pair(side, 1)
    await side.sim("PUT", "snapshots/night")
    await side.sim("PATCH", f"devices/{device}", {"enabled": False})
    cursor = (await sync(side))["cursor"]
    await side.sim("POST", "snapshots/night/restore")
    await side.sim("PATCH", f"devices/{device}", {"settings": {"x": 1}})
    (change,) = (await sync(side, cursor=cursor))["devices"]
    assert (change["enabled"], change["config"]["settings"]) == (True, {"x": 1})


async def test_a_backup_brings_back_receipts_readings_and_identity(side: Side) -> None:
    await side.send(1, 2)
    await side.sim("PUT", "snapshots/night")
    await side.send(3)
    before = await side.sim("PUT", "database", {})
    assert before["before"] != before["database"]
    await side.sim("POST", "snapshots/night/restore")
    assert await side.stored() == ["1", "2"]
    assert (await side.sim("GET", "state"))["database"] == before["before"]
    assert await side.send(2, 3) == ["duplicate", "stored"]


async def test_what_is_told_to_gateways_can_be_set_and_too_large_a_batch_is_refused(side: Side) -> None:
    await side.sim("PUT", "gateways", {"interval_s": 5, "messages": 2})
    answer = await sync(side)
    assert (answer["interval_s"], answer["limits"]) == (5, {"messages": 2})
    assert [(await side.post(*seqs)).status_code for seqs in ((1, 2), (3, 4, 5))] == [200, 413]


async def test_gateways_are_listed_with_their_report_and_can_be_fenced(side: Side) -> None:
    await sync(side, status="degraded", problems=["the disk is full"])
    (gateway,) = (await side.sim("GET", "gateways"))["gateways"]
    assert gateway["report"]["problems"] == ["the disk is full"]
    await side.sim("POST", f"gateways/{GATEWAY}/fence")
    answer = await side.http.post("/iiot/gateway/sync", json=request())
    assert (answer.status_code, answer.json()["code"]) == (409, "fenced")


async def enroll(side: Side, code: str, **more: Any) -> Any:
    body = {"contract": 1, "code": code, "gateway_uid": str(uuid.UUID(int=9)), "name": "line 1", "version": "1", **more}
    return await side.http.post("/iiot/gateway/enroll", json=body, headers={"Authorization": ""})


async def test_a_code_turns_into_a_key_once_and_the_key_is_good_for_its_gateway_alone(side: Side) -> None:
    code = (await side.sim("POST", "codes"))["code"]
    answer = await enroll(side, code)
    assert answer.json()["database_uuid"] == (await side.sim("GET", "state"))["database"]
    assert (await enroll(side, code)).json()["code"] == "code_used"
    key = {"Authorization": f"Bearer {answer.json()['api_key']}"}
    for gateway, status in ((str(uuid.UUID(int=9)), 200), (GATEWAY, 403)):
        said = await side.http.post("/iiot/gateway/sync", json=request(gateway=gateway), headers=key)
        assert said.status_code == status
        batch = {"contract": 1, "gateway": gateway, "epoch": "e", "floor": 1, "settled": 0, "messages": []}
        assert (await side.http.post("/iiot/webhook", json=batch, headers=key)).status_code == status


async def test_a_code_expires(side: Side) -> None:
    code = (await side.sim("POST", "codes", {"valid_s": 60}))["code"]
    side.clock.seconds += 61
    assert (await enroll(side, code)).json()["code"] == "code_expired"


async def test_an_enrolment_tells_where_commands_go(side: Side) -> None:
    code = (await side.sim("POST", "codes"))["code"]
    await enroll(side, code, api_url="http://appliance", api_key="k" * 20)
    assert side.stand_in.commands._client is not None
