"""``/openapi.json`` says what the API does: it is held against the router, and (in ``conftest.py``) against every
answer that any test of this folder gets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from appliance.contract.odoo import Kind
from appliance.enrolment import Enrolled
from appliance.store.buffer import Rejection
from appliance.web.api import create_app
from appliance.web.mqtt_socket import MqttSockets
from appliance.web.openapi import document
from appliance.web.routes import Line
from tests.web.browser import Browser
from tests.web.conftest import AUTHORIZED, Described, World, check_answer, template_of

Operation = tuple[str, str]


@pytest.fixture
async def described(client: httpx.AsyncClient) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get("/openapi.json")).json()
    return answer


def operations(described: dict[str, Any]) -> dict[Operation, dict[str, Any]]:
    return {(method, path): each for path, methods in described["paths"].items() for method, each in methods.items()}


def test_the_document_is_openapi_3_1(described: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(described).validate()
    assert described["openapi"] == "3.1.0"
    assert described["info"]["version"] == "1.2.3"


def served(world: World, *, sockets: bool) -> set[Operation]:
    door = MqttSockets(open_connection=lambda: None) if sockets else None  # type: ignore[arg-type, return-value]
    app = create_app(world.services, mqtt_sockets=door)
    found: set[Operation] = set()
    for route in app.routes:
        if isinstance(route, Route):
            found |= {(method.lower(), route.path) for method in (route.methods or ()) if method != "HEAD"}
        else:
            assert isinstance(route, WebSocketRoute)
            found.add(("get", route.path))
    return found


async def test_every_route_is_described_and_nothing_else(world: World) -> None:
    for sockets in (False, True):
        app = create_app(
            world.services,
            mqtt_sockets=MqttSockets(open_connection=lambda: None) if sockets else None,  # type: ignore[arg-type, return-value]
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gw") as client:
            answer = (await client.get("/openapi.json")).json()
        OpenAPIV31SpecValidator(answer).validate()
        assert operations(answer).keys() == served(world, sockets=sockets)


def test_a_route_that_is_not_described_is_missed() -> None:
    async def endpoint(_: Request) -> Response:
        return Response()

    assert document([Line("GET", "/new", endpoint)], version="1", sockets=False)["paths"] == {}


async def test_what_needs_a_key_says_so_with_its_scope(client: httpx.AsyncClient, described: dict[str, Any]) -> None:
    lines = (await client.get("/")).json()["endpoints"]
    for line in lines:
        security = operations(described)[line["method"].lower(), line["path"]]["security"]
        wanted = [{"bearer": [line["scope"]]}, {"header": [line["scope"]]}] if line["key"] else None
        assert security == wanted if wanted else not security or security[0] == {}


async def test_each_operation_has_a_name_of_its_own_and_a_sentence(described: dict[str, Any]) -> None:
    every = operations(described)
    assert len({each["operationId"] for each in every.values()}) == len(every)
    for (method, path), each in every.items():
        assert each["summary"].endswith((".", "?")), (method, path)
        assert "``" not in each["summary"] + each.get("description", "")


async def test_a_parameter_that_is_not_described_is_refused_and_described_ones_are_taken(
    client: httpx.AsyncClient, described: dict[str, Any]
) -> None:
    examples = {"limit": "1", "after": "0", "up_to": "1", "kind": "telemetry", "payload": "true", "all": "true"}
    checked = 0
    for (method, path), each in operations(described).items():
        named = (
            [parameter["name"] for parameter in each["parameters"] if parameter["in"] == "query"]
            if "parameters" in each
            else []
        )
        if not named or path.startswith(("/ui/", "/firmware/")):
            continue
        checked += 1
        for name in named:
            query = {"all": "true"} if "all" in named else {}
            query[name] = "online" if name == "status" else examples.get(name, "x")
            response = await client.request(method, path, params=query, headers=AUTHORIZED)
            assert response.status_code == 200, (path, name, response.text)
        query = {"all": "true"} if "all" in named else {}
        response = await client.request(method, path, params={**query, "devise": "x"}, headers=AUTHORIZED)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "devise"), path
    assert checked >= 5


async def test_what_a_body_must_hold_is_what_is_asked_for(client: httpx.AsyncClient, described: dict[str, Any]) -> None:
    for (method, path), each in operations(described).items():
        content = each.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        required = set(described["components"]["schemas"][name].get("required", ()))
        response = await client.request(method, path, json={}, headers=AUTHORIZED)
        missed = {error["field"] for error in response.json()["errors"]} - {""}
        assert (response.status_code, missed) == (422, required), path


@pytest.mark.parametrize("bomb", [b"[" * 500_000, b'{"a":' * 100_000, b'{"a":' * 40 + b"1" + b"}" * 40])
async def test_no_body_is_read_deeper_than_it_may_be(
    client: httpx.AsyncClient, described: dict[str, Any], bomb: bytes
) -> None:
    headers = {**AUTHORIZED, "Content-Type": "application/json"}
    for (method, path), each in operations(described).items():
        if "application/json" in each.get("requestBody", {}).get("content", {}):
            response = await client.request(method, path, content=bomb, headers=headers)
            assert response.status_code in (400, 413), path


async def enrolled(odoo_url: str, code: str, database: str | None) -> Enrolled:
    return Enrolled(odoo_url, "db", Path("odoo.json"), overruled=False)


async def test_each_answer_of_success_was_seen_once(world: World, described: dict[str, Any]) -> None:
    """Walks through every route; the client itself holds each answer against the document."""
    app = world.app(sync_soon=lambda: True)
    await world.pair("press-07", "SN-1")
    world.odoo.issue("T-2", "SN-2", "press-08")
    for number in range(4):
        world.buffer.append("press-07", Kind.TELEMETRY, b'{"n":%d}' % number, received_at_ms=1_795_341_600_000)
    await world.buffer.settle([], [Rejection(seq, "no_rule", "none") for seq in range(1, 5)])
    letters, command = "/api/v1/dead-letters", "/api/v1/command"
    order = {"device_id": "press-07", "action": "reset", "command_id": "c-1"}
    await world.pair("press-09", "SN-9")
    link = await world.link(await world.keep(b"firmware"), 8, "press-09")
    update = {"device_id": "press-07", "action": "rollback", "update_id": "u-1"}
    asked: list[tuple[str, str, Any]] = [
        *(("GET", path, None) for path in ("/", "/openapi.json", "/health", "/ca.pem", "/metrics", "/api/v1/buffer")),
        ("POST", "/api/v1/config/download", {"serial": "SN-2", "token": "T-2"}),
        ("POST", f"{command}/send", order),
        ("GET", f"{command}/c-1", None),
        ("DELETE", f"{command}/c-1", None),
        ("POST", "/api/v1/sync", None),
        ("POST", "/api/v1/ota/send", update),
        ("GET", "/api/v1/ota/u-1", None),
        ("DELETE", "/api/v1/ota/u-1", None),
        ("GET", link, None),
        ("GET", "/api/v1/device/press-07/status", None),
        ("GET", "/api/v1/devices/status", None),
        ("POST", "/api/v1/device/press-07/rotate", None),
        ("DELETE", "/api/v1/device/press-08", None),
        ("GET", "/api/v1/ledger", None),
        ("GET", f"{letters}?payload=true", None),
        ("GET", f"{letters}/export", None),
        ("GET", f"{letters}/1", None),
        ("POST", f"{letters}/1/retry", None),
        ("DELETE", f"{letters}/2", None),
        ("POST", f"{letters}/retry", {"device": "press-07", "limit": 1}),
        ("DELETE", f"{letters}?device=press-08", None),
        ("GET", "/api/v1/ledger", None),
        ("POST", "/api/v1/api-keys", {"name": "odoo"}),
        ("GET", "/api/v1/api-keys", None),
        ("POST", "/api/v1/page-password", {"password": None}),
        *(("GET", f"/ui/{path}", None) for path in ("login", "static/style.css")),
    ]
    pages = ("", "devices", "device/press-07", "messages", "message/4", "messages/export", "gateway", "enrol")
    seen: set[tuple[str, str, int]] = set()
    async with world.client(app, address="127.0.0.1") as client:
        client.base_url = httpx.URL("http://localhost")
        for method, path, body in asked:
            response = await client.request(method, path, json=body, headers=AUTHORIZED)
            template = template_of(described, httpx.URL(path).path)
            assert template is not None, path
            seen.add((method.lower(), template, response.status_code))
        response = await client.get(link, headers={"Range": "bytes=0-3"})
        seen.add(("get", "/firmware/{sha256}", response.status_code))
        keys = (await client.get("/api/v1/api-keys", headers=AUTHORIZED)).json()["api_keys"]
        response = await client.delete(f"/api/v1/api-keys/{keys[1]['id']}", headers=AUTHORIZED)
        seen.add(("delete", "/api/v1/api-keys/{key_id}", response.status_code))
    # a stream ends at once where the appliance is about to stop
    app = world.app(stopping=lambda: True, pages=replace(world.services.pages, enrol=enrolled))
    async with Browser(app) as visitor:
        await visitor.log_in()
        for page in (*pages, "live"):
            response = await visitor.get(f"/ui/{page}")
            template = template_of(described, httpx.URL(f"/ui/{page}").path)
            assert template is not None, page
            seen.add(("get", template, response.status_code))
        await visitor.open("/ui/enrol")
        response = await visitor.submit("/ui/enrol", {"odoo": "https://odoo.example.com", "code": "c"})
        seen.add(("post", "/ui/enrol", response.status_code))
    promised = {
        (method, path, int(status))
        for (method, path), each in operations(described).items()
        for status in each["responses"]
        if status < "300"
    }
    assert promised <= seen


async def test_an_answer_that_is_not_as_described_is_noticed(world: World, described: dict[str, Any]) -> None:
    request = httpx.Request("GET", "http://gw/api/v1/buffer")
    good = {"waiting": 1, "parked": 0, "oldest_received_at": None, "oldest_age_s": None, "last_seq": 1}
    good |= {"waiting_by_kind": {"telemetry": 1}, "parked_by_code": None}
    await check_answer(described, request, httpx.Response(200, json=good))
    for bad in ({**good, "new": 1}, {**good, "waiting": "1"}, {"waiting": 1}):
        with pytest.raises(jsonschema.ValidationError):
            await check_answer(described, request, httpx.Response(200, json=bad))
    for response in (httpx.Response(202, json=good), httpx.Response(200, text="x")):
        with pytest.raises(AssertionError):
            await check_answer(described, request, response)
    assert isinstance(world.client()._transport, Described)


async def test_the_document_is_made_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def counted(*arguments: Any, **named: Any) -> dict[str, Any]:
        nonlocal made
        made += 1
        return document(*arguments, **named)

    monkeypatch.setattr("appliance.web.openapi.document", counted)
    app = create_app(replace(world.services))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gw") as client:
        await asyncio.gather(*(client.get("/openapi.json") for _ in range(3)))
    assert made == 1
