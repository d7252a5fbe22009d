"""Who sends too many requests is told when to come again, and is nobody else's misfortune."""

from __future__ import annotations

import httpx
import pytest

from appliance.web.api import WebLimits
from tests.web.conftest import AUTHORIZED, World, problem

FEW = WebLimits(requests_per_address_per_s=1, burst_per_address=3, requests_per_key_per_s=2, burst_per_key=5)
BUFFER = "/api/v1/buffer"


async def statuses(client: httpx.AsyncClient, count: int, path: str = "/", **headers: str) -> list[int]:
    return [(await client.get(path, headers=headers)).status_code for _ in range(count)]


async def test_an_address_without_a_key_is_answered_429_until_it_has_waited(world: World) -> None:
    async with world.client(world.app(limits=FEW)) as client:
        assert await statuses(client, 4) == [200, 200, 200, 429]
        response = await client.post("/api/v1/config/download", json={"serial": "S", "token": "t"})
        assert (response.status_code, problem(response)["code"]) == (429, "rate_limited")
        assert response.headers["retry-after"] == "1"
        assert not world.odoo.calls
        world.clock.ahead += 1
        assert await statuses(client, 2) == [200, 429]


async def test_a_key_has_a_share_of_its_own_that_no_stranger_uses_up(world: World) -> None:
    app = world.app(limits=FEW)
    _, other = await world.services.api_keys.create("grafana", "read")
    async with world.client(app) as client, world.client(app, address="10.9.9.9") as elsewhere:
        assert (await statuses(client, 5))[-1] == 429
        assert await statuses(client, 6, BUFFER, **AUTHORIZED) == [200] * 5 + [429]
        # wherever it is used, and whatever for
        assert await statuses(elsewhere, 1, "/", **AUTHORIZED) == [429]
        assert await statuses(client, 1, BUFFER, **{"X-API-Key": other}) == [200]
        world.clock.ahead += 1
        assert await statuses(client, 3, BUFFER, **AUTHORIZED) == [200, 200, 429]


async def test_a_wrong_key_is_counted_by_address(world: World) -> None:
    async with world.client(world.app(limits=FEW)) as client:
        assert await statuses(client, 4, BUFFER, **{"X-API-Key": "wrong"}) == [401, 401, 401, 429]


@pytest.mark.parametrize(
    ("addresses", "last"),
    [
        (["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"], 429),
        (["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1", "2001:db8:0:4::1"], 200),
        (["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"], 429),
        (["127.0.0.1"] * 8, 200),
        (["::1"] * 8, 200),
    ],
)
async def test_an_address_stands_for_what_one_host_can_have(world: World, addresses: list[str], last: int) -> None:
    app = world.app(limits=FEW)
    for address in addresses:
        async with world.client(app, address=address) as client:
            (status,) = await statuses(client, 1)
    assert status == last


async def test_what_is_not_there_is_counted_too(world: World) -> None:
    async with world.client(world.app(limits=FEW)) as client:
        assert await statuses(client, 4, "/nothing") == [404, 404, 404, 429]


async def test_ordinary_use_is_never_refused(world: World) -> None:
    app = world.app()
    async with world.client(app) as client, world.client(app, address="10.0.0.9") as browser:
        assert set(await statuses(client, 1000, BUFFER, **AUTHORIZED)) == {200}
        assert set(await statuses(browser, 200, "/health")) == {200}
