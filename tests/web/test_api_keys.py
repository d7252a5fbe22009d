"""Named keys over HTTP: made, shown once, bounded by their scope, revoked at once, also in the middle of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from appliance.services.api_keys import SCOPES
from appliance.services.limits import FailureLimiter
from appliance.web.auth import KeyGuard
from appliance.web.problems import Boundary
from tests.web.conftest import AUTHORIZED, World, problem

PATH = "/api/v1/api-keys"


async def make(client: httpx.AsyncClient, name: str, scope: str) -> dict[str, Any]:
    response = await client.post(PATH, json={"name": name, "scope": scope}, headers=AUTHORIZED)
    assert response.status_code == 201, response.text
    key: dict[str, Any] = response.json()
    return key


async def test_a_key_is_told_once_and_listed_without_itself(client: httpx.AsyncClient) -> None:
    made = await make(client, "odoo", "operate")
    assert (made["name"], made["scope"], made["builtin"], made["last_used_at"]) == ("odoo", "operate", False, None)
    assert made["key"].startswith(made["prefix"])
    answer = await client.get("/api/v1/buffer", headers={"X-API-Key": made["key"]})
    assert answer.status_code == 200
    listed = await client.get(PATH, headers=AUTHORIZED)
    assert made["key"][-64:] not in listed.text
    own, key = listed.json()["api_keys"]
    assert (own["id"], own["builtin"], own["scope"], own["prefix"]) == ("built-in", True, "full", None)
    assert key.pop("last_used_at") is not None
    assert key == {name: made[name] for name in made if name not in ("key", "last_used_at")}


async def test_a_revoked_key_is_401_from_then_on(client: httpx.AsyncClient) -> None:
    made = await make(client, "odoo", "read")
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert (await client.get("/api/v1/buffer", headers=headers)).status_code == 200
    answer = await client.delete(f"{PATH}/{made['id']}", headers=AUTHORIZED)
    assert (answer.status_code, answer.json()) == (200, {"id": made["id"], "name": "odoo", "revoked": True})
    assert (await client.get("/api/v1/buffer", headers=headers)).status_code == 401
    answer = await client.delete(f"{PATH}/{made['id']}", headers=AUTHORIZED)
    assert (answer.status_code, problem(answer)["code"]) == (404, "unknown_api_key")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "odoo", "scope": "read"}, 409, "api_key_exists"),
        ({"name": "a b"}, 422, "bad_request"),
        ({"name": ""}, 422, "bad_request"),
        ({"name": "n" * 65}, 422, "bad_request"),
        ({"name": "n", "scope": "everything"}, 422, "bad_request"),
        ({"name": "n", "scopes": "full"}, 422, "bad_request"),
        ({}, 422, "bad_request"),
    ],
)
async def test_a_key_that_cannot_be_made_says_why(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, code: str
) -> None:
    await make(client, "odoo", "read")
    response = await client.post(PATH, json=body, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (status, code)


async def test_the_appliance_s_own_key_is_not_revoked_here(client: httpx.AsyncClient) -> None:
    response = await client.delete(f"{PATH}/built-in", headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (409, "builtin_api_key")
    assert (await client.get(PATH, headers=AUTHORIZED)).status_code == 200


async def test_each_route_opens_to_its_scope_and_those_above_alone(world: World, client: httpx.AsyncClient) -> None:
    keys = {scope: (await make(client, scope, scope))["key"] for scope in SCOPES}
    lines = (await client.get("/")).json()["endpoints"]
    guarded = [line for line in lines if line["scope"] is not None]
    assert {line["scope"] for line in guarded} == set(SCOPES)
    for line in guarded:
        path = line["path"].format(command_id="c", update_id="u", device_id="d", dead_letter_id="1", key_id="k")
        for scope, key in keys.items():
            response = await client.request(line["method"], path, headers={"X-API-Key": key})
            if SCOPES.index(scope) < SCOPES.index(line["scope"]):
                assert (response.status_code, problem(response)["code"]) == (403, "insufficient_scope")
                assert f'scope="{line["scope"]}"' in response.headers["www-authenticate"]
            else:
                assert response.status_code not in (401, 403)


async def test_a_key_of_any_scope_sees_health_in_detail(client: httpx.AsyncClient) -> None:
    made = await make(client, "prometheus", "metrics")
    headers = {"X-API-Key": made["key"]}
    assert "reasons" in (await client.get("/health", headers=headers)).json()
    assert (await client.get("/metrics", headers=headers)).status_code == 200
    assert (await client.get("/api/v1/buffer", headers=headers)).status_code == 403


async def test_what_is_being_sent_ends_at_once_when_its_key_is_revoked(world: World, client: httpx.AsyncClient) -> None:
    made = await make(client, "page", "read")
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()  # as a page that waits for news
        finally:
            closed.set()

    async def stream(_: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    limiter = FailureLimiter(most=1, window_s=1, clock=world.clock)
    guarded = KeyGuard(keys=world.services.api_keys, limiter=limiter).keyed(stream, "read")
    app = Boundary(Route("/", guarded).app)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "client": None,
        "headers": [(b"x-api-key", made["key"].encode())],
    }
    sent: asyncio.Queue[Any] = asyncio.Queue()

    async def receive() -> Any:
        await asyncio.Event().wait()

    serving = asyncio.create_task(app(scope, receive, sent.put))
    assert (await sent.get())["status"] == 200
    assert (await sent.get())["body"] == b"first"
    await world.services.api_keys.revoke(made["id"])
    async with asyncio.timeout(5):
        await serving
    assert closed.is_set()
    # no last piece: whoever reads knows that this was not all
    assert all(message.get("more_body", True) for message in [sent.get_nowait() for _ in range(sent.qsize())])


async def test_a_stream_that_ends_by_itself_is_whole(world: World, client: httpx.AsyncClient) -> None:
    made = await make(client, "backup", "read")
    response = await client.get("/api/v1/dead-letters/export", headers={"X-API-Key": made["key"]})
    assert (response.status_code, response.content) == (200, b"")


async def test_without_a_store_keys_are_still_known(world: World, client: httpx.AsyncClient) -> None:
    made = await make(client, "odoo", "read")
    await world.database.close()
    assert (await client.get("/api/v1/buffer", headers={"X-API-Key": made["key"]})).status_code == 200
    response = await client.post(PATH, json={"name": "new"}, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (503, "store_unavailable")
