"""What holds for every route: keys, problem documents, bounds; and once the whole way through uvicorn and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.routing import Route

from appliance import certificates
from appliance.web.api import WebLimits
from tests.web.conftest import AUTHORIZED, KEY, World, problem

SEND = "/api/v1/command/send"
FILE = "f" * 64
OPEN = {
    ("GET", "/"),
    ("GET", "/openapi.json"),
    ("GET", "/health"),
    ("GET", "/ca.pem"),
    ("POST", "/api/v1/config/download"),
    ("GET", f"/firmware/{FILE}"),
}


def routes(world: World) -> Iterator[tuple[str, str]]:
    for route in world.app().routes:
        assert isinstance(route, Route)
        for method in sorted(route.methods or ()):
            # the pages have a door of their own, see test_pages.py
            if method != "HEAD" and not route.path.startswith("/ui/"):
                names = {"command_id": "c-1", "update_id": "u-1", "device_id": "press-07", "dead_letter_id": "1"}
                yield method, route.path.format(**names, key_id="k", sha256=FILE)


async def test_every_route_needs_a_key_except_those_that_are_open_on_purpose(
    world: World, client: httpx.AsyncClient
) -> None:
    without_key = set()
    for method, path in routes(world):
        response = await client.request(method, path)
        if response.status_code == 401:
            assert problem(response)["code"] == "unauthorized"
            assert response.headers["www-authenticate"].startswith("Bearer ")
        else:
            without_key.add((method, path))
    assert without_key == OPEN


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer  {KEY}"}, 200),
        ({"X-API-Key": KEY}, 200),
        ({"X-API-Key": "another-key"}, 200),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": KEY[:-1]}, 401),
        ({"X-API-Key": KEY + "k"}, 401),
        ({"X-API-Key": "schl\u00fcssel".encode()}, 401),
        ({"Authorization": KEY}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": "Bearer wrong", "X-API-Key": KEY}, 401),
        ({}, 401),
    ],
)
async def test_only_a_valid_key_opens(client: httpx.AsyncClient, headers: dict[str, str | bytes], status: int) -> None:
    assert (await client.get("/api/v1/buffer", headers=headers)).status_code == status  # type: ignore[arg-type]


async def test_wrong_keys_of_an_address_end_in_429_and_a_valid_key_still_passes(world: World) -> None:
    app = world.app(limits=WebLimits(failures_per_address=3))
    async with world.client(app) as client, world.client(app, address="10.0.0.2") as other:
        codes = []
        for _ in range(5):
            response = await client.get("/api/v1/buffer", headers={"X-API-Key": "wrong"})
            problem(response)
            codes.append(response.status_code)
        assert codes == [401, 401, 401, 429, 429]
        assert 0 < int(response.headers["retry-after"]) <= 60
        assert (await client.get("/api/v1/buffer", headers=AUTHORIZED)).status_code == 200
        assert (await other.get("/api/v1/buffer", headers={"X-API-Key": "wrong"})).status_code == 401
        world.clock.ahead += 61
        assert (await client.get("/api/v1/buffer", headers={"X-API-Key": "wrong"})).status_code == 401


@pytest.mark.parametrize("path", ["/nothing", "/health/", "/api/v1/command", "/api/v1/device/a/b/status", "//"])
async def test_an_unknown_path_is_404(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"http://gw{path}")
    assert (response.status_code, problem(response)["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/health", {"GET", "HEAD"}),
        ("OPTIONS", "/", {"GET", "HEAD"}),
        ("POST", "/api/v1/command/c-1", {"GET", "HEAD", "DELETE"}),
        ("GET", "/api/v1/config/download", {"POST"}),
    ],
)
async def test_a_wrong_method_is_405_and_names_the_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    response = await client.request(method, path, headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (405, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"\xff\xfe",
            b"null",
            b"[]",
            b'"x"',
            b'{"a": NaN}',
            b'{"a": 1e999}',
            b'{"a": "\\ud800"}',
            b"{} {}",
        ),
        *(b"[" * 100_000, b'{"a":' * 40 + b"1" + b"}" * 40, b'{"a":' + b"[" * 33 + b"]" * 33 + b"}", b"1" * 5000),
    ],
)
async def test_a_body_that_is_no_usable_json_object_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post(SEND, content=body, headers=AUTHORIZED | {"Content-Type": "application/json"})
    assert (response.status_code, problem(response)["code"]) == (400, "bad_request")


async def test_nesting_within_the_bound_is_accepted(world: World, client: httpx.AsyncClient) -> None:
    await world.pair("press-07", "SN-1")
    params: dict[str, Any] = {}
    for _ in range(29):
        params = {"a": params}
    body = {"device_id": "press-07", "action": "x", "params": params}
    assert (await client.post(SEND, json=body, headers=AUTHORIZED)).status_code == 202


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_another_media_type_is_415(client: httpx.AsyncClient, media_type: str) -> None:
    response = await client.post(SEND, content=b"{}", headers=AUTHORIZED | {"Content-Type": media_type})
    assert (response.status_code, problem(response)["code"]) == (415, "unsupported_media_type")


async def test_a_body_above_the_limit_is_413_by_its_length_before_it_is_read(world: World) -> None:
    async with world.client(world.app(limits=WebLimits(body_bytes=100))) as client:
        body = json.dumps({"serial": "S", "token": "t", "x": "y" * 200})
        response = await client.post("/api/v1/config/download", content=body)
        assert (response.status_code, problem(response)["code"]) == (413, "too_large")
        assert response.headers["connection"] == "close"
        assert not world.odoo.calls
        for announced in ("101", "9" * 5000):
            headers = {"Content-Length": announced}
            response = await client.post("/api/v1/config/download", content=b"{}", headers=headers)
            assert response.status_code == 413


async def test_a_body_above_the_limit_is_413_while_it_streams_without_a_length_or_an_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.web.bodies.LINGER_BYTES", 1000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:  # nearly: a broken limit must fail, not hang
        nonlocal sent
        while sent < 100_000:
            sent += 10
            yield b" " * 10

    async with world.client(world.app(limits=WebLimits(body_bytes=100))) as client:
        response = await client.post("/api/v1/config/download", content=endless())
        assert (response.status_code, problem(response)["code"]) == (413, "too_large")
        assert sent < 1300
        # exactly the limit passes
        body = json.dumps({"serial": "S", "token": "t"}).ljust(100).encode()
        assert (await client.post("/api/v1/config/download", content=body)).status_code == 403


async def test_a_client_that_stops_in_the_middle_of_too_large_a_body_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.web.bodies.LINGER_S", 0.01)

    async def stopping() -> AsyncIterator[bytes]:
        yield b" " * 200
        await asyncio.Event().wait()

    async with world.client(world.app(limits=WebLimits(body_bytes=100))) as client:
        response = await client.post("/api/v1/config/download", content=stopping())
        assert response.status_code == 413


async def test_a_body_that_does_not_arrive_in_time_is_408(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.web.bodies.BODY_WITHIN_S", 0.01)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with world.client() as client:
        response = await client.post("/api/v1/config/download", content=never())
    assert (response.status_code, problem(response)["code"]) == (408, "bad_request")


async def test_an_unexpected_error_is_500_without_details_and_is_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise RuntimeError("internal matter 4711")

    async with world.client(world.app(backlog=broken)) as client:
        response = await client.get("/api/v1/buffer", headers=AUTHORIZED)
    assert (response.status_code, problem(response)["code"]) == (500, "internal")
    assert "4711" not in response.text
    assert "Traceback" not in response.text
    assert "internal matter 4711" in caplog.text


async def test_no_key_no_token_and_no_secret_is_logged(
    world: World, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="appliance")
    device = await world.pair("press-07", "SN-1")
    secret = world.credentials.password(device.device_id, 1)
    await client.post("/api/v1/config/download", json={"serial": "SN-9", "token": "token-in-body"})
    await client.post("/api/v1/config/download", auth=("press-07", secret))
    await client.post("/api/v1/config/download", auth=("press-07", "secret-wrong"))
    await client.get("/api/v1/buffer", headers=AUTHORIZED)
    await client.get("/api/v1/buffer", headers={"X-API-Key": "key-wrong"})
    assert caplog.text
    for word in ("token-in-body", secret, "secret-wrong", KEY, "key-wrong"):
        assert word not in caplog.text


async def test_answers_are_not_kept_by_caches_nor_guessed_at(client: httpx.AsyncClient) -> None:
    for path in ("/", "/health", "/ca.pem"):
        response = await client.get(path)
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"


@contextlib.asynccontextmanager
async def serving(world: World, folder: Path) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """The API behind uvicorn and TLS on a free port."""
    made = certificates.ensure(folder, ["127.0.0.1"])
    config = uvicorn.Config(
        world.app(limits=WebLimits(body_bytes=10_000)),
        ssl_certfile=str(made.cert_file),
        ssl_keyfile=str(made.key_file),
        log_level="error",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve([listening]), name="uvicorn")
    try:
        trust = ssl.create_default_context(cadata=made.ca_pem)
        yield listening.getsockname()[1], trust
    finally:
        server.should_exit = True
        await task
        listening.close()


async def test_the_whole_way_through_uvicorn_and_tls(world: World, tmp_path: Path) -> None:
    world.odoo.issue("T-1", "SN-1", "press-07")
    async with (
        serving(world, tmp_path / "tls") as (port, trust),
        httpx.AsyncClient(verify=trust, base_url=f"https://127.0.0.1:{port}", timeout=10) as client,
    ):
        answer = await client.post("/api/v1/config/download", json={"serial": "SN-1", "token": "T-1"})
        secret = answer.json()["mqtt"]["password"]
        response = await client.post("/api/v1/config/download", auth=("press-07", secret))
        assert response.json()["device_id"] == "press-07"
        order = {"device_id": "press-07", "action": "reset"}
        assert (await client.post(SEND, json=order, headers=AUTHORIZED)).status_code == 202
        response = await client.head("/nothing")
        assert (response.status_code, response.content) == (404, b"")

        async def large() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b" " * 1000

        for body in (large(), b" " * 200_000):
            response = await client.post("/api/v1/config/download", content=body)
            assert (response.status_code, problem(response)["code"]) == (413, "too_large")
        assert (await client.get("/health")).json() == {"status": "ok"}
