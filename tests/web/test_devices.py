"""What operators do to a paired device over the API, and what they see of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from appliance.contract.sync import DeviceChange
from tests.web.conftest import AUTHORIZED, World, problem

PATH = "/api/v1/device/press-07"


async def status(client: httpx.AsyncClient, device_id: str = "press-07") -> dict[str, Any]:
    response = await client.get(f"/api/v1/device/{device_id}/status", headers=AUTHORIZED)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_device_gets_a_new_secret_and_the_present_one_stays_valid(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.pair("press-07", "SN-1")
    response = await client.post(f"{PATH}/rotate", headers=AUTHORIZED)
    secret = {"generation": 2, "used_generation": None, "valid_from": 1, "pending": True}
    assert (response.status_code, response.json()) == (202, {"device_id": "press-07", "secret": secret})
    assert (await status(client))["secret"] == secret
    assert world.credentials.password("press-07", 2) not in response.text


async def test_a_removed_device_is_gone_and_its_secret_opens_nothing(world: World, client: httpx.AsyncClient) -> None:
    await world.pair("press-07", "SN-1")
    login = ("press-07", world.credentials.password("press-07", 1))
    assert (await client.post("/api/v1/config/download", auth=login)).status_code == 200
    response = await client.delete(PATH, headers=AUTHORIZED)
    assert (response.status_code, response.json()) == (200, {"device_id": "press-07", "removed": True})
    assert (await client.post("/api/v1/config/download", auth=login)).status_code == 401
    assert (await client.get(f"{PATH}/status", headers=AUTHORIZED)).status_code == 404


@pytest.mark.parametrize(("method", "path"), [("POST", f"{PATH}/rotate"), ("DELETE", PATH)])
async def test_a_device_that_is_not_paired_here_is_404(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_device")


async def test_the_status_says_why_a_newer_configuration_is_not_taken_over(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.pair("a", "SN-1")
    await world.pair("data", "SN-2")
    wanted = {"device_id": "data", "config_version": 2, "topics": {"telemetry": "telemetry/a/{device}"}}
    await world.services.changes.apply([DeviceChange.model_validate({"device_id": "data", "config": wanted})], [])
    configuration = (await status(client, "data"))["configuration"]
    assert (configuration["version"], configuration["refused"]) == (
        1,
        "its topics cannot be used: telemetry/a/data belongs to device a",
    )


async def test_the_status_says_that_a_device_may_still_use_earlier_topics(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.pair("press-07", "SN-1")
    wanted = {"device_id": "press-07", "config_version": 2, "topics": {"telemetry": "plant/{device}/t"}}
    await world.services.changes.apply([DeviceChange.model_validate({"device_id": "press-07", "config": wanted})], [])
    configuration = (await status(client))["configuration"]
    assert (configuration["version"], configuration["current"], configuration["earlier_topics"]) == (2, False, 1)
