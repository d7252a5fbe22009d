"""Health, certificate, buffer and devices."""

from __future__ import annotations

import httpx
import pytest

from appliance.contract.odoo import Kind
from appliance.contract.presence import OfflineCode
from appliance.store.buffer import Rejection
from appliance.web.api import Health
from tests.web.conftest import AUTHORIZED, CA_PEM, World, problem


async def test_the_root_tells_name_version_and_every_endpoint(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    answer = response.json()
    assert (response.status_code, answer["status"]) == (200, "ok")
    assert (answer["name"], answer["version"]) == ("gateway-1", "1.2.3")
    listed = {(line["method"], line["path"]): line["key"] for line in answer["endpoints"]}
    assert listed[("POST", "/api/v1/config/download")] is False
    assert listed[("POST", "/api/v1/command/send")] is True
    assert listed[("GET", "/api/v1/devices/status")] is True


@pytest.mark.parametrize(("status", "code"), [("ok", 200), ("degraded", 200), ("failing", 503)])
async def test_health_tells_everybody_the_status_and_details_to_those_with_a_key(
    world: World, client: httpx.AsyncClient, status: str, code: int
) -> None:
    world.health = Health(status=status, reasons=("Odoo is away",), details={"uplink": {"url": "https://odoo"}})  # type: ignore[arg-type]
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (code, {"status": status})
    assert (await client.get("/")).status_code == code
    response = await client.get("/health", headers=AUTHORIZED)
    assert response.status_code == code
    assert response.json()["reasons"] == ["Odoo is away"]
    assert response.json()["uplink"] == {"url": "https://odoo"}
    response = await client.get("/health", headers={"X-API-Key": "wrong"})
    assert (response.status_code, problem(response)["code"]) == (401, "unauthorized")


async def test_the_certificate_is_served_to_everybody(client: httpx.AsyncClient) -> None:
    response = await client.get("/ca.pem")
    assert (response.status_code, response.text) == (200, CA_PEM)
    assert response.headers["content-type"].startswith("application/x-pem-file")


async def test_the_buffer_tells_what_waits_and_for_how_long(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/v1/buffer", headers=AUTHORIZED)).json()
    assert (answer["waiting"], answer["parked"], answer["last_seq"]) == (3, 1, 17)
    assert 2 <= answer["oldest_age_s"] < 60


async def test_the_buffer_tells_of_what_it_consists(world: World, client: httpx.AsyncClient) -> None:
    for number in range(6):
        kind = Kind.COMMAND_RESPONSE if number == 5 else Kind.TELEMETRY
        world.buffer.append("press-07", kind, b"{}", received_at_ms=1_700_000_000_000)
    refused = [Rejection(2, "no_rule", "none"), Rejection(3, "no_rule", "none"), Rejection(4, "invalid", "wrong")]
    await world.buffer.settle([], refused)
    answer = (await client.get("/api/v1/buffer", headers=AUTHORIZED)).json()
    assert answer["waiting_by_kind"] == {"command_response": 1, "telemetry": 2}
    assert answer["parked_by_code"] == {"no_rule": 2, "invalid": 1}


async def test_too_much_to_count_in_passing_is_not_counted(
    world: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.store.kinds.COUNTED_ROWS", 2)
    for _ in range(6):
        world.buffer.append("press-07", Kind.TELEMETRY, b"{}", received_at_ms=1_700_000_000_000)
    await world.buffer.settle([], [Rejection(seq, "no_rule", "none") for seq in (1, 2, 3)])
    answer = (await client.get("/api/v1/buffer", headers=AUTHORIZED)).json()
    assert (answer["waiting_by_kind"], answer["parked_by_code"]) == (None, None)


async def test_a_device_shows_connection_firmware_commands_counters_and_why_it_is_offline(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.pair("press-07", "SN-1", config_version=4)
    path = "/api/v1/device/press-07/status"
    answer = (await client.get(path, headers=AUTHORIZED)).json()
    assert answer["connection"]["status"] == "unknown"
    assert (answer["connection"]["reason_code"], answer["connection"]["since"]) == ("never_connected", None)
    assert answer["connection"]["reason"]

    world.presence.connected("press-07", "10.0.0.7")
    world.presence.last_telemetry_ms["press-07"] = 1_795_341_600_000
    await client.post("/api/v1/command/send", json={"device_id": "press-07", "action": "reset"}, headers=AUTHORIZED)
    answer = (await client.get(path, headers=AUTHORIZED)).json()
    assert answer["connection"]["since"]
    assert 0 <= answer["connection"]["for_s"] < 60
    assert answer["connection"]["last_seen"]
    for key in ("since", "for_s", "last_seen"):
        del answer["connection"][key]
    del answer["paired_at"], answer["time"]
    assert answer.pop("configuration") == {
        "version": answer["config_version"],
        "told_version": None,
        "taken_version": None,
        "current": False,
        "earlier_topics": 0,
        "refused": None,
        "problem": None,
    }
    assert answer.pop("secret") == {"generation": 1, "used_generation": None, "valid_from": 1, "pending": True}
    assert answer == {
        "device_id": "press-07",
        "serial": "SN-1",
        "enabled": True,
        "connection": {
            "status": "online",
            "reason_code": None,
            "reason": None,
            "address": "10.0.0.7",
            "connects": 1,
            "takeovers": 0,
            "warning": None,
        },
        "firmware_version": "1.0.0",
        "hardware": None,
        "config_version": 4,
        "first_login_at": None,
        "last_telemetry": "2026-11-22T10:00:00.000Z",
        "open_commands": 1,
        "open_update": None,
        "counters": await world.services.counters("press-07"),
    }

    world.presence.disconnected("press-07", "protocol error: packet id 0", OfflineCode.PROTOCOL_ERROR)
    answer = (await client.get(path, headers=AUTHORIZED)).json()
    assert (answer["connection"]["status"], answer["connection"]["reason_code"]) == ("offline", "protocol_error")
    assert answer["connection"]["reason"] == "it sent what MQTT does not allow: packet id 0"

    await world.registry.set_enabled("press-07", False)
    answer = (await client.get(path, headers=AUTHORIZED)).json()
    assert answer["connection"]["reason"] == "it is switched off in Odoo"
    assert answer["connection"]["reason_code"] == "disabled"


async def test_an_unknown_device_is_404(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/device/nobody/status", headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_device")


async def test_devices_are_listed_by_page_without_gap_or_repeat(world: World, client: httpx.AsyncClient) -> None:
    for number in range(25):
        await world.pair(f"press-{number:02}", f"SN-{number}")
    seen: list[str] = []
    after = ""
    while True:
        params: dict[str, str | int] = {"limit": 10, "after": after}
        answer = (await client.get("/api/v1/devices/status", params=params, headers=AUTHORIZED)).json()
        assert len(answer["devices"]) <= 10
        seen += [device["device_id"] for device in answer["devices"]]
        if answer["next"] is None:
            break
        after = answer["next"]
    assert seen == [f"press-{number:02}" for number in range(25)]
    assert answer["paired"] == 25


async def test_devices_are_filtered_by_status_and_by_part_of_a_name(world: World, client: httpx.AsyncClient) -> None:
    for number in range(12):
        await world.pair(f"press-{number:02}", f"SN-{number}")
    world.presence.connected("press-03", "10.0.0.3")
    world.presence.connected("press-11", "10.0.0.11")

    async def found(**params: str | int) -> list[str]:
        response = await client.get("/api/v1/devices/status", params=params, headers=AUTHORIZED)
        return [device["device_id"] for device in response.json()["devices"]]

    assert await found(status="online") == ["press-03", "press-11"]
    assert await found(status="online", limit=1, after="press-03") == ["press-11"]
    assert await found(search="SN-1") == ["press-01", "press-10", "press-11"]
    assert await found(search="SN-1", status="unknown") == ["press-01", "press-10"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "status=asleep", "search=" + "x" * 65])
async def test_a_query_out_of_bounds_is_refused(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/api/v1/devices/status?{query}", headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (422, "bad_request")
