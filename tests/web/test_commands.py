"""Commands over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from appliance.errors import CommandRefusedError, StoreUnavailableError
from appliance.services.commands import CommandService
from appliance.store.outbox import Outbox
from tests.web.conftest import AUTHORIZED, World, problem

SEND = "/api/v1/command/send"


@pytest.fixture(autouse=True)
async def device(world: World) -> None:
    await world.pair("device001", "SN-1")


async def test_the_seed_documents_command_is_accepted(world: World, client: httpx.AsyncClient) -> None:
    body = b'{\n  "device_id": "device001",\n  "action": "reset",\n  "params": {\n    "delay": 5\n  }\n}'
    response = await client.post(SEND, content=body, headers=AUTHORIZED | {"Content-Type": "application/json"})
    assert (response.status_code, response.json()) == (202, {"command_id": "c-1", "state": "queued"})
    assert (world.commands.orders[0].action, world.commands.orders[0].params) == ("reset", {"delay": 5})


async def test_a_command_is_asked_for_and_taken_back(client: httpx.AsyncClient) -> None:
    body = {"device_id": "device001", "action": "reset", "command_id": "c-7"}
    assert (await client.post(SEND, json=body, headers=AUTHORIZED)).json()["command_id"] == "c-7"
    status = (await client.get("/api/v1/command/c-7", headers=AUTHORIZED)).json()
    assert (status["state"], [event["state"] for event in status["history"]]) == ("queued", ["queued"])
    response = await client.delete("/api/v1/command/c-7", headers=AUTHORIZED)
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert (await client.post(SEND, json=body, headers=AUTHORIZED)).json() == {
        "command_id": "c-7",
        "state": "cancelled",
    }
    response = await client.delete("/api/v1/command/c-7", headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (409, "command_final")


async def test_an_unknown_device_or_command_is_404(client: httpx.AsyncClient) -> None:
    response = await client.post(SEND, json={"device_id": "nobody", "action": "reset"}, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_device")
    response = await client.get("/api/v1/command/nothing", headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_command")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "reset"}, "device_id"),
        ({"device_id": "device001"}, "action"),
        ({"device_id": "device001", "action": 7}, "action"),
        ({"device_id": "device001", "action": "x", "params": [1]}, "params"),
        ({"device_id": "device001", "action": "x", "expires_in_s": -1}, "expires_in_s"),
        ({"device_id": "device001", "action": "x", "deliver": "twice"}, "deliver"),
        ({"device_id": "device001", "action": "x", "command_id": "a/b"}, "command_id"),
    ],
)
async def test_wrong_fields_are_named(
    world: World, client: httpx.AsyncClient, body: dict[str, object], field: str
) -> None:
    response = await client.post(SEND, json=body, headers=AUTHORIZED)
    document = problem(response)
    assert (response.status_code, document["code"]) == (422, "bad_request")
    assert [error["field"] for error in document["errors"]] == [field]
    assert not world.commands.orders


async def test_what_the_service_refuses_is_told_with_its_code(world: World, client: httpx.AsyncClient) -> None:
    world.commands.error = CommandRefusedError("the template renders no JSON", code="command_not_json")
    body = {"device_id": "device001", "action": "reset"}
    response = await client.post(SEND, json=body, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (422, "command_not_json")


async def test_a_store_that_cannot_commit_is_503_and_names_no_file(world: World, client: httpx.AsyncClient) -> None:
    world.commands.error = StoreUnavailableError("/var/lib/secret/appliance.db: disk full")
    response = await client.post(SEND, json={"device_id": "device001", "action": "reset"}, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (503, "store_unavailable")
    assert "retry-after" in response.headers
    assert "/var/lib" not in response.text


@pytest.fixture
async def real(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """The API in front of the real command service; no device is connected."""
    commands = CommandService(outbox=Outbox(world.database), devices=world.registry, clock=world.clock)
    running = asyncio.create_task(commands.run(), name="commands")
    async with world.client(world.app(commands=commands)) as client:
        yield client
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_the_real_service_takes_a_command_once_shows_it_and_cancels_it(real: httpx.AsyncClient) -> None:
    body = {"device_id": "device001", "action": "reset", "params": {"delay": 5}, "command_id": "c-7"}
    first = await real.post(SEND, json=body, headers=AUTHORIZED)
    again = await real.post(SEND, json=body, headers=AUTHORIZED)
    assert (first.status_code, first.json()) == (202, {"command_id": "c-7", "state": "queued"})
    assert (again.status_code, again.json()) == (202, {"command_id": "c-7", "state": "queued"})
    response = await real.post(SEND, json=body | {"action": "stop"}, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (409, "command_id_conflict")

    device = (await real.get("/api/v1/device/device001/status", headers=AUTHORIZED)).json()
    assert device["open_commands"] == 1
    cancelled = (await real.delete("/api/v1/command/c-7", headers=AUTHORIZED)).json()
    assert cancelled["state"] == "cancelled"
    status = (await real.get("/api/v1/command/c-7", headers=AUTHORIZED)).json()
    assert [event["state"] for event in status["history"]] == ["queued", "cancelled"]


async def test_the_real_services_errors_are_problem_documents(world: World, real: httpx.AsyncClient) -> None:
    for body, expected in [
        ({"device_id": "nobody", "action": "reset"}, (404, "unknown_device")),
        ({"device_id": "device001", "action": "x" * 70, "payload": "y" * 300_000}, (422, "command_too_large")),
    ]:
        response = await real.post(SEND, json=body, headers=AUTHORIZED)
        assert (response.status_code, problem(response)["code"]) == expected
    await world.registry.set_enabled("device001", False)
    response = await real.post(SEND, json={"device_id": "device001", "action": "reset"}, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (409, "device_disabled")
    response = await real.get("/api/v1/command/%00x", headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_command")
