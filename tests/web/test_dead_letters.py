"""Operators look at what was refused, send it again, remove it, take it away; and the ledger tells."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from appliance.contract.odoo import Kind
from appliance.store import dead_letters
from appliance.store.buffer import Rejection
from appliance.store.parked import park
from tests.web.conftest import AUTHORIZED, World, problem

PATH = "/api/v1/dead-letters"
RECEIVED_MS = 1_795_341_600_000


@pytest.fixture
async def api(client: httpx.AsyncClient) -> httpx.AsyncClient:
    client.headers.update(AUTHORIZED)
    return client


async def refuse(world: World, *payloads: bytes, device: str = "press-07", code: str = "no_rule") -> None:
    """Readings that Odoo refuses."""
    before = world.buffer.backlog().last_seq
    for payload in payloads:
        world.buffer.append(device, Kind.TELEMETRY, payload, received_at_ms=RECEIVED_MS, at_ms=RECEIVED_MS - 1000)
    seqs = range(before + 1, before + 1 + len(payloads))
    await world.buffer.settle([], [Rejection(seq, code, "no rule takes it") for seq in seqs])


async def park_garbage(world: World, payload: bytes = b"\xff not json") -> None:
    await world.database.run(
        lambda connection: park(
            connection,
            device="press-07",
            kind=Kind.TELEMETRY,
            payload=payload,
            code="not_json",
            message="not JSON",
            received_at_ms=RECEIVED_MS,
        )
    )


async def total(api: httpx.AsyncClient) -> dict[str, Any]:
    answer = (await api.get("/api/v1/ledger")).json()
    assert answer["adds_up"] is True
    assert answer["checked_against_rows"] is True
    counts: dict[str, Any] = answer["total"]
    return counts


async def test_a_dead_letter_tells_what_when_and_why(world: World, api: httpx.AsyncClient) -> None:
    await refuse(world, b'{"t": 71.30}')
    (listed,) = (await api.get(PATH)).json()["dead_letters"]
    assert listed.pop("parked_at")
    assert listed == {
        "id": 1,
        "seq": 1,
        "device": "press-07",
        "kind": "telemetry",
        "at": "2026-11-22T09:59:59.000Z",
        "received_at": "2026-11-22T10:00:00.000Z",
        "code": "no_rule",
        "message": "no rule takes it",
        "messages": 1,
        "retryable": True,
        "payload_bytes": 12,
    }
    assert b'"payload":{"t": 71.30}' in (await api.get(f"{PATH}/1")).content
    answer = (await api.get(PATH, params={"payload": "true"})).json()
    assert answer["dead_letters"][0]["payload"] == {"t": 71.3}
    assert (answer["rows"], answer["payload_bytes"], answer["next"]) == (1, 12, None)


async def test_dead_letters_are_filtered_and_come_in_pages(world: World, api: httpx.AsyncClient) -> None:
    await refuse(world, *(b"%d" % number for number in range(7)))
    await refuse(world, b"7", device="mixer-1", code="other")
    await park_garbage(world)

    async def found(**params: str | int) -> list[int]:
        answer = (await api.get(PATH, params=params)).json()
        return [each["id"] for each in answer["dead_letters"]]

    assert await found(device="mixer-1") == [8]
    assert await found(code="not_json") == [9]
    assert await found(device="press-07", code="other") == []
    assert await found(kind="presence") == []
    assert await found(kind="telemetry", after=6) == [7, 8, 9]
    seen: list[int] = []
    params: dict[str, str | int] = {"limit": 3, "device": "press-07"}
    while True:
        answer = (await api.get(PATH, params=params)).json()
        seen += [each["id"] for each in answer["dead_letters"]]
        if answer["next"] is None:
            break
        params["after"] = answer["next"]
    assert seen == [*range(1, 8), 9]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "kind=dreams", "after=-1", "devise=press-07", "after=9e9"])
async def test_a_query_that_cannot_be_is_refused(api: httpx.AsyncClient, query: str) -> None:
    for path in (PATH, f"{PATH}/export"):
        response = await api.get(f"{path}?{query}")
        assert (response.status_code, problem(response)["code"]) == (422, "bad_request")


@pytest.mark.parametrize("letter_id", ["7", "seven", "-1", "1" * 40, "%C2%B2"])
async def test_an_unknown_id_is_404(api: httpx.AsyncClient, letter_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry")):
        response = await api.request(method, f"{PATH}/{letter_id}{path}")
        assert (response.status_code, problem(response)["code"]) == (404, "unknown_dead_letter")


async def test_a_retried_message_waits_again_and_the_ledger_follows(world: World, api: httpx.AsyncClient) -> None:
    await refuse(world, b"1", b"2")
    assert (await total(api))["parked"] == 2
    answer = (await api.post(f"{PATH}/1/retry")).json()
    assert answer == {"id": 1, "seq": 3}
    counts = await total(api)
    assert (counts["received"], counts["waiting"], counts["parked"]) == (2, 1, 1)
    (message,) = (await world.buffer.take()).messages
    assert (message.seq, message.payload, message.at_ms) == (3, b"1", RECEIVED_MS - 1000)
    response = await api.post(f"{PATH}/1/retry")
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_dead_letter")


async def test_what_never_was_json_is_shown_and_cannot_be_retried(world: World, api: httpx.AsyncClient) -> None:
    await park_garbage(world)
    answer = (await api.get(f"{PATH}/1")).json()
    assert (answer["retryable"], answer["payload"], answer["seq"]) == (False, {"base64": "/yBub3QganNvbg=="}, None)
    response = await api.post(f"{PATH}/1/retry")
    assert (response.status_code, problem(response)["code"]) == (409, "not_retryable")
    assert "not JSON" in problem(response)["detail"]
    assert (await api.post(f"{PATH}/retry", json={"all": True})).json()["skipped"] == 1
    assert (await total(api))["parked"] == 1


async def test_many_are_retried_with_a_filter_and_in_steps(world: World, api: httpx.AsyncClient) -> None:
    await refuse(world, *(b"%d" % number for number in range(5)))
    await refuse(world, b"5", device="mixer-1")
    order: dict[str, Any] = {"device": "press-07", "limit": 3}
    answer = (await api.post(f"{PATH}/retry", json=order)).json()
    assert answer == {"retried": 3, "skipped": 0, "next": 3, "up_to": 6}
    answer = (await api.post(f"{PATH}/retry", json={**order, "after": 3, "up_to": 6})).json()
    assert (answer["retried"], answer["next"]) == (2, None)
    assert [message.payload for message in (await world.buffer.take()).messages] == [b"0", b"1", b"2", b"3", b"4"]
    counts = await total(api)
    assert (counts["waiting"], counts["parked"]) == (5, 1)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_request_for_many_ends_when_the_appliance_stops_and_says_where_to_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(dead_letters, "CHANGED_ROWS", 2)
    await refuse(world, *(b"%d" % number for number in range(10)))
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    async def send(api: httpx.AsyncClient, after: int) -> dict[str, Any]:
        if method == "POST":
            return (await api.post(f"{PATH}/retry", json={"all": True, "after": after})).json()  # type: ignore[no-any-return]
        return (await api.delete(PATH, params={"all": "true", "after": after})).json()  # type: ignore[no-any-return]

    done = "retried" if method == "POST" else "removed"
    async with world.client(world.app(stopping=stopping)) as api:
        api.headers.update(AUTHORIZED)
        answer = await send(api, 0)
        assert (answer[done], answer["next"]) == (4, 4)
        answer = await send(api, answer["next"])
        assert (answer[done], answer["next"]) == (0, 4)
        asked = -100
        answer = await send(api, answer["next"])
        assert (answer[done], answer["next"]) == (6, None)
        assert (await total(api))["parked"] == 0


async def test_a_request_for_many_is_answered_while_somebody_waits(
    world: World, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "CHANGED_ROWS", 1)
    await refuse(world, b"1", b"2", b"3")
    change = dead_letters.take_off

    def slow(*arguments: Any) -> None:
        world.clock.ahead += 20
        change(*arguments)

    monkeypatch.setattr(dead_letters, "take_off", slow)
    answer = (await api.post(f"{PATH}/retry", json={"all": True})).json()
    assert (answer["retried"], answer["next"]) == (2, 2)


async def test_what_is_removed_is_counted_and_listed(world: World, api: httpx.AsyncClient) -> None:
    await refuse(world, b"1", b"2", b"3")
    await refuse(world, b"4", device="mixer-1")
    assert (await api.delete(f"{PATH}/2")).json() == {"id": 2, "removed": 1}
    answer = (await api.delete(PATH, params={"code": "no_rule", "device": "press-07"})).json()
    assert (answer["removed"], answer["next"]) == (2, None)
    ledger = (await api.get("/api/v1/ledger", params={"search": "press"})).json()
    (line,) = ledger["devices"]
    assert (line["received"], line["removed"], line["parked"], line["waiting"]) == (3, 3, 0, 0)
    (removal,) = line["removals"]
    assert removal.pop("last_at")
    assert removal == {"kind": "telemetry", "reason": "operator", "count": 3}
    assert (ledger["lines"], ledger["total"]["received"], ledger["adds_up"]) == (2, 4, True)


@pytest.mark.parametrize("order", [{}, {"devise": "press-07"}, {"all": True, "cod": "x"}, {"all": False}, {"limit": 5}])
async def test_all_are_meant_only_when_it_is_said(world: World, api: httpx.AsyncClient, order: dict[str, Any]) -> None:
    await refuse(world, b"1")
    for response in (await api.post(f"{PATH}/retry", json=order), await api.delete(PATH, params=order)):
        assert (response.status_code, problem(response)["code"]) == (422, "bad_request")
    assert (await total(api))["parked"] == 1
    assert (await api.delete(PATH, params={"all": "true"})).json()["removed"] == 1


async def test_the_export_is_a_json_object_in_each_line(
    world: World, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "SCANNED_ROWS", 10)
    await refuse(world, *(b'{\n "n":\r\n %d}' % number for number in range(35)))
    await refuse(world, b"[]", device="mixer-1")
    response = await api.get(f"{PATH}/export", params={"device": "press-07"})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    lines = response.content.splitlines()
    assert [json.loads(line)["payload"]["n"] for line in lines] == list(range(35))
    assert (await api.head(f"{PATH}/export")).content == b""


async def test_an_export_reads_on_only_as_its_client_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "SCANNED_ROWS", 10)
    await refuse(world, *(b"%d" % number for number in range(100)))
    chunks: list[int] = []
    stalled, gone = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            chunks.append(message["body"].count(b"\n"))
            if len(chunks) == 2:
                stalled.set()
                await asyncio.Event().wait()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "path": f"{PATH}/export",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", AUTHORIZED["Authorization"].encode())],
        "client": ("10.0.0.1", 1),
    }
    serving = asyncio.ensure_future(world.app()(scope, receive, send))  # type: ignore[arg-type]
    await asyncio.wait_for(stalled.wait(), 20)
    assert chunks == [10, 10]
    gone.set()
    await asyncio.wait_for(serving, 20)


async def test_the_ledger_comes_in_pages(world: World, api: httpx.AsyncClient) -> None:
    for number in range(5):
        world.buffer.append(f"press-{number}", Kind.TELEMETRY, b"1", received_at_ms=RECEIVED_MS)
    await world.buffer.settle([1, 2])
    first = (await api.get("/api/v1/ledger", params={"limit": 3})).json()
    assert [line["device"] for line in first["devices"]] == ["press-0", "press-1", "press-2"]
    assert [line["waiting"] for line in first["devices"]] == [0, 0, 1]
    assert first["total"] == {
        "received": 5,
        "stored": 2,
        "parked": 0,
        "removed": 0,
        "refused": 0,
        "repeated": 0,
        "waiting": 3,
        "adds_up": True,
    }
    rest = (await api.get("/api/v1/ledger", params={"limit": 3, "after": first["next"]})).json()
    assert [line["device"] for line in rest["devices"]] == ["press-3", "press-4"]
    assert rest["next"] is None


async def test_a_ledger_that_does_not_add_up_says_so(world: World, api: httpx.AsyncClient) -> None:
    await refuse(world, b"1")
    await world.database.run(lambda connection: connection.execute("UPDATE ledger SET stored = 1").fetchall())
    answer = (await api.get("/api/v1/ledger")).json()
    assert (answer["adds_up"], answer["devices"][0]["adds_up"]) == (False, False)


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "search=" + "x" * 65])
async def test_a_ledger_query_out_of_bounds_is_refused(api: httpx.AsyncClient, query: str) -> None:
    response = await api.get(f"/api/v1/ledger?{query}")
    assert (response.status_code, problem(response)["code"]) == (422, "bad_request")
