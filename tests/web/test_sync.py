"""Odoo says over HTTP that it has work."""

from __future__ import annotations

import httpx
import pytest

from tests.web.conftest import AUTHORIZED, World, problem

SYNC = "/api/v1/sync"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_only_a_post_asks_for_work(client: httpx.AsyncClient, method: str) -> None:
    assert (await client.request(method, SYNC, headers=AUTHORIZED)).status_code == 405


async def test_nobody_without_a_key_makes_the_appliance_ask(client: httpx.AsyncClient) -> None:
    response = await client.post(SYNC)
    assert (response.status_code, problem(response)["code"]) == (401, "unauthorized")


async def test_a_key_that_may_only_read_does_not_make_the_appliance_ask(client: httpx.AsyncClient) -> None:
    made = await client.post("/api/v1/api-keys", json={"name": "reader", "scope": "read"}, headers=AUTHORIZED)
    response = await client.post(SYNC, headers={"Authorization": f"Bearer {made.json()['key']}"})
    assert (response.status_code, problem(response)["code"]) == (403, "insufficient_scope")


async def test_without_an_odoo_there_is_nobody_to_ask(client: httpx.AsyncClient) -> None:
    response = await client.post(SYNC, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (409, "no_odoo")


async def test_odoo_is_asked_once_for_each_call(world: World) -> None:
    asked: list[int] = []

    def ask() -> bool:
        asked.append(1)
        return True

    async with world.client(world.app(sync_soon=ask)) as client:
        for _ in range(2):
            response = await client.post(SYNC, headers=AUTHORIZED)
            assert (response.status_code, response.json()) == (202, {"sync": "soon"})
    assert len(asked) == 2
