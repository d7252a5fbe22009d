"""The stand-in's own side: its control routes, its failures on request, and its memory."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.contract.odoo import Kind, StoredMessage, encode_batch, encode_message
from appliance.contract.times import Clock
from firmware_sim.odoo import StandIn
from firmware_sim.standin.faults import KINDS
from tests.conftest import ROOT
from tests.firmware_sim.stand_in import API_KEY, data_file, stand_in


class ManualClock(Clock):
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def now_ms(self) -> int:
        return round(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


class Side:
    """A stand-in without a socket."""

    def __init__(self, path: Path | None = None) -> None:
        self.clock = ManualClock()
        self.stand_in = StandIn(api_key=API_KEY, path=path, clock=self.clock)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.stand_in.app),
            base_url="http://odoo",
            headers={"Authorization": f"Bearer {API_KEY}"},
        )
        self.epoch = "epoch-1"

    async def sim(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.http.request(method, f"/sim/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def fault(self, kind: str, **more: Any) -> None:
        await self.sim("POST", "faults", {"kind": kind, **more})

    async def post(
        self, *seqs: int, device: str = "press-001", floor: int = 1, gateway: str = "g", kind: Kind = Kind.TELEMETRY
    ) -> httpx.Response:
        messages = [
            encode_message(
                StoredMessage(seq, device, kind, None, 1_700_000_000_000, 0, b'{"msg_id": %d}' % seq), "live"
            )
            for seq in seqs
        ]
        body = encode_batch(gateway=gateway, epoch=self.epoch, floor=floor, settled=0, messages=messages)
        return await self.http.post("/iiot/webhook", content=body, headers={"Content-Type": "application/json"})

    async def send(self, *seqs: int, **more: Any) -> list[str]:
        return [result["status"] for result in (await self.post(*seqs, **more)).json()["results"]]

    async def stored(self) -> list[str]:
        answer = await self.http.get("/sim/effects?kind=telemetry")
        return [json.loads(line)["msg_id"] for line in answer.text.splitlines()]


@asynccontextmanager
async def opened(path: Path | None = None) -> AsyncIterator[Side]:
    side = Side(path)
    try:
        yield side
    finally:
        await side.http.aclose()
        await side.stand_in.close()


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with opened() as one:
        await one.sim("POST", "devices", {"prefix": "press", "count": 2})
        yield one


# --- failures on request -------------------------------------------------------------------------------------


async def test_unavailable_answers_503_as_often_as_told_and_stores_nothing(side: Side) -> None:
    await side.fault("unavailable", count=2)
    assert [(await side.post(1)).status_code for _ in range(3)] == [503, 503, 200]
    assert await side.stored() == ["1"]


async def test_a_failure_for_seconds_ends_by_itself(side: Side) -> None:
    await side.fault("unavailable", seconds=5)
    assert (await side.post(1)).status_code == 503
    side.clock.seconds += 5
    assert (await side.post(1)).status_code == 200
    assert (await side.sim("GET", "faults"))["faults"] == []


async def test_a_500_after_storing_has_stored_and_the_repeat_is_a_duplicate(side: Side) -> None:
    await side.fault("error_after_storing", count=1)
    assert (await side.post(1, 2)).status_code == 500
    assert await side.send(1, 2) == ["duplicate", "duplicate"]
    assert await side.stored() == ["1", "2"]


async def test_messages_of_one_device_are_rejected_and_the_other_devices_stored(side: Side) -> None:
    await side.fault("reject", device="press-002")
    assert await side.send(1, device="press-001") == ["stored"]
    assert await side.send(2, device="press-002") == ["rejected"]
    await side.sim("DELETE", "faults")
    assert await side.send(2, device="press-002") == ["stored"]


async def test_retry_leaves_no_receipt(side: Side) -> None:
    await side.fault("retry", count=1)
    assert await side.send(1, 2) == ["retry", "stored"]
    assert await side.send(1, 2) == ["stored", "duplicate"]


async def test_what_a_device_said_in_order_is_never_stored_behind_a_later_one(side: Side) -> None:
    await side.fault("retry", count=1)
    assert await side.send(1, 2, kind=Kind.COMMAND_STATE) == ["retry", "retry"]
    assert await side.send(1, 2, kind=Kind.COMMAND_STATE) == ["stored", "stored"]


async def test_a_loss_on_request_is_confirmed_and_missing(side: Side) -> None:
    await side.fault("loss", count=1)
    assert await side.send(1, 2) == ["stored", "stored"]
    assert await side.stored() == ["2"]


async def test_a_duplicate_on_request_is_there_twice(side: Side) -> None:
    await side.fault("duplicate", count=1)
    assert await side.send(1, 2) == ["stored", "stored"]
    assert await side.stored() == ["1", "1", "2"]


async def test_a_second_batch_of_the_same_gateway_is_busy_and_another_gateway_is_not(side: Side) -> None:
    await side.fault("slow", count=1, delay_s=0.2)
    first = asyncio.create_task(side.post(1), name="slow batch")
    while (await side.sim("GET", "faults"))["faults"]:
        await asyncio.sleep(0)
    second = await side.post(2)
    assert (second.status_code, second.json()["code"]) == (429, "gateway_busy")
    assert float(second.headers["Retry-After"]) > 0
    assert await side.send(1, gateway="another") == ["stored"]
    assert (await first).status_code == 200


async def test_a_failure_that_makes_no_sense_is_refused(side: Side) -> None:
    for order in ({"kind": "gossip"}, {"kind": "loss", "count": 0}, {"kind": "refuse"}, {"kind": "loss", "count": "1"}):
        answer = await side.http.post("/sim/faults", json=order)
        assert answer.status_code == 422, order


async def test_a_closed_door_refuses_connections_then_opens_again_and_control_stays_reachable() -> None:
    with stand_in() as addresses:
        async with (
            httpx.AsyncClient(base_url=addresses["url"], trust_env=False) as front,
            httpx.AsyncClient(base_url=addresses["control_url"], trust_env=False) as control,
        ):
            assert (await front.get("/sim/state")).status_code == 200
            await control.post("/sim/faults", json={"kind": "refuse", "seconds": 60})
            async with asyncio.timeout(10):
                while True:
                    try:
                        await front.get("/sim/state")
                    except httpx.ConnectError:
                        break
                    except httpx.TransportError:
                        continue  # it was closing
            assert (await control.get("/sim/state")).json()["faults"][0]["kind"] == "refuse"
            await control.delete("/sim/faults")
            async with asyncio.timeout(10):
                while True:
                    try:
                        assert (await front.get("/sim/state")).status_code == 200
                        break
                    except httpx.ConnectError:
                        await asyncio.sleep(0.01)


# --- devices and what arrived ---------------------------------------------------------------------------------


async def test_devices_are_listed_with_what_arrived_from_them(side: Side) -> None:
    await side.send(1, 2)
    first, second = (await side.sim("GET", "devices"))["devices"]
    assert (first["device_id"], first["messages"], first["paired"]) == ("press-001", {"telemetry": 2}, False)
    assert first["latest"]["payload"] == {"msg_id": 2}
    assert second["messages"] == {}
    state = await side.sim("GET", "state")
    assert state["messages"] == {"telemetry": 2}
    assert state["answers"] == {"stored": 2}


async def test_a_late_reading_is_kept_and_does_not_become_the_latest(side: Side) -> None:
    def message(seq: int, at_ms: int) -> bytes:
        stored = StoredMessage(seq, "press-001", Kind.TELEMETRY, at_ms, 1_700_000_000_000, 1, b'{"msg_id": %d}' % seq)
        return encode_message(stored, "backlog")

    for seq, at_ms in ((1, 1_699_999_999_000), (2, 1_699_999_000_000), (3, 1_800_000_000_000)):
        body = encode_batch(gateway="g", epoch="e", floor=1, settled=0, messages=[message(seq, at_ms)])
        await side.http.post("/iiot/webhook", content=body, headers={"Content-Type": "application/json"})
        latest = (await side.sim("GET", "devices"))["devices"][0]["latest"]
        assert latest["payload"] == {"msg_id": {1: 1, 2: 1, 3: 3}[seq]}
    assert latest["at"].startswith("2023-11-14"), "a time far ahead of the gateway's was believed"
    assert await side.stored() == ["1", "2", "3"]


async def test_a_device_that_exists_or_has_a_bad_name_is_not_made(side: Side) -> None:
    for order, status in (({"prefix": "press"}, 409), ({"device_id": "no spaces"}, 422), ({"count": 0}, 422)):
        assert (await side.http.post("/sim/devices", json=order)).status_code == status
    assert len((await side.sim("GET", "devices"))["devices"]) == 2


async def test_the_control_routes_answer_to_this_machine_only() -> None:
    stand = StandIn(api_key=API_KEY)
    transport = httpx.ASGITransport(stand.app, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://odoo") as http:
        assert (await http.get("/sim/state")).status_code == 403
    await stand.close()


async def test_receipts_and_readings_survive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "odoo.db"
    async with opened(path) as before:
        await before.sim("POST", "devices", {"prefix": "press"})
        await before.send(1, 2)
        database = (await before.sim("GET", "state"))["database"]
    async with opened(path) as after:
        assert await after.send(2, 3) == ["duplicate", "stored"]
        assert await after.stored() == ["1", "2", "3"]
        assert (await after.sim("GET", "state"))["database"] == database


async def test_receipts_below_the_floor_are_deleted(side: Side) -> None:
    await side.send(*range(1, 101))
    await side.send(101, floor=101)
    assert side.stand_in.state.row("SELECT count(*) FROM receipts") == (1,)


async def test_the_log_of_what_arrived_is_bounded_and_says_so(side: Side) -> None:
    side.stand_in.inbox._keep_effects = 10
    for seq in range(1, 300):
        await side.send(seq)
    assert len(await side.stored()) < 300
    assert (await side.sim("GET", "state"))["pruned"] is True
    assert (await side.sim("GET", "state"))["messages"] == {"telemetry": 299}


def test_the_process_prints_its_addresses_and_keeps_its_file(tmp_path: Path) -> None:
    for expected in (201, 409):
        with stand_in("--data", data_file(tmp_path)) as addresses:
            answer = httpx.post(f"{addresses['url']}/sim/devices", json={"prefix": "press"}, trust_env=False)
            assert answer.status_code == expected


# --- commands -------------------------------------------------------------------------------------------------


class FakeAppliance:
    """The route that takes commands, and nothing else."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.app = Starlette(routes=[Route("/api/v1/command/send", self.take, methods=["POST"])])

    async def take(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        self.keys.add(request.headers["authorization"])
        status = self.statuses.pop(0) if self.statuses else 202
        return JSONResponse({"command_id": self.bodies[-1]["command_id"], "state": "queued"}, status)


async def with_appliance(side: Side, appliance: FakeAppliance) -> None:
    await side.sim("PUT", "appliance", {"url": "http://appliance", "api_key": "k" * 20})
    client = side.stand_in.commands._client
    assert client is not None
    client._transport = httpx.ASGITransport(appliance.app)


async def report(side: Side, seq: int, kind: str, payload: dict[str, Any]) -> None:
    at = "2026-11-22T10:00:00.000Z"
    message = {"seq": seq, "device": "press-001", "kind": kind, "at": at, "payload": payload}
    body = {"contract": 1, "gateway": "g", "epoch": "e", "floor": 1, "settled": 0, "messages": [message]}
    (await side.http.post("/iiot/webhook", json=body)).raise_for_status()


async def test_a_command_goes_through_the_appliances_api_and_is_followed_to_its_end(side: Side) -> None:
    appliance = FakeAppliance()
    await with_appliance(side, appliance)
    order = {"device_id": "press-001", "action": "reset", "params": {"delay": 5}}
    sent = await side.sim("POST", "commands", order)
    assert (sent["state"], sent["problem"]) == ("queued", None)
    assert appliance.bodies == [{"command_id": sent["command_id"], **order}]
    assert appliance.keys == {"Bearer " + "k" * 20}
    for seq, state in enumerate(("sent", "delivered", "done"), 1):
        await report(side, seq, "command_state", {"command_id": sent["command_id"], "state": state, "at": "…"})
    await report(side, 9, "command_response", {"command_id": sent["command_id"], "status": "ok", "result": 1})
    seen = await side.sim("GET", f"commands/{sent['command_id']}")
    assert seen["state"] == "done"
    assert [entry["state"] for entry in seen["history"]] == ["sent", "delivered", "done"]
    assert seen["response"]["result"] == 1
    assert (await side.sim("GET", "state"))["commands"] == {"done": 1}


async def test_a_command_is_tried_again_with_its_id_while_the_appliance_fails(side: Side) -> None:
    appliance = FakeAppliance(503, 503)
    side.stand_in.commands.first_pause_s = 0.0
    await with_appliance(side, appliance)
    sent = await side.sim("POST", "commands", {"device_id": "press-001", "action": "reset"})
    assert sent["state"] == "queued"
    assert {body["command_id"] for body in appliance.bodies} == {sent["command_id"]}
    assert len(appliance.bodies) == 3


async def test_a_command_that_the_appliance_refuses_is_not_tried_again(side: Side) -> None:
    appliance = FakeAppliance(404)
    await with_appliance(side, appliance)
    sent = await side.sim("POST", "commands", {"device_id": "nobody", "action": "reset"})
    assert sent["state"] == "not_sent"
    assert sent["problem"].startswith("404")
    assert len(appliance.bodies) == 1


async def test_a_command_sent_by_somebody_else_is_followed_too(side: Side) -> None:
    command_id = str(uuid.uuid4())
    await report(side, 1, "command_state", {"command_id": command_id, "state": "expired"})
    assert (await side.sim("GET", f"commands/{command_id}"))["state"] == "expired"


async def test_without_an_appliance_no_command_is_taken(side: Side) -> None:
    answer = await side.http.post("/sim/commands", json={"device_id": "press-001", "action": "reset"})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_appliance")


# --- documentation --------------------------------------------------------------------------------------------


async def test_the_readme_lists_every_control_route_and_every_fault(side: Side) -> None:
    text = (ROOT / "firmware_sim" / "README.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z]+ /sim/[^`]*)` \|", text, re.MULTILINE))
    routes = [route for route in side.stand_in.routes if isinstance(route, Route)]
    served = {
        f"{method} {route.path}"
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
        if route.path.startswith("/sim/")
    }
    assert listed == served
    faults = text[text.index("| fault |") :]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", faults, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(KINDS)
