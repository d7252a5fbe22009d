"""Each failure of the stand-in, as a real client and the appliance's own client for Odoo meet it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from appliance.contract.device import ConfigRequest
from appliance.contract.odoo import Kind, StoredMessage, encode_batch, encode_message
from appliance.errors import OdooAlarmError, OdooRefusedError, OdooTooLargeError, OdooUnavailableError
from appliance.uplink.client import OdooClient, Timeouts
from firmware_sim.odoo import StandIn
from firmware_sim.standin.faults import KINDS, parse
from firmware_sim.standin.server import door_to, listen
from tests.firmware_sim.stand_in import API_KEY, stand_in

DEVICE = "press-001"


class Served:
    """A stand-in behind a real socket, in this process."""

    def __init__(self, stand: StandIn, url: str, http: httpx.AsyncClient) -> None:
        self.stand_in = stand
        self.url = url
        self.http = http

    def fault(self, kind: str, **more: Any) -> None:
        self.stand_in.faults.add({"kind": kind, **more})

    async def post(self, *seqs: int, padding: int = 0) -> httpx.Response:
        return await self.http.post("/iiot/webhook", content=batch(*seqs, padding=padding))

    def stored(self) -> list[int]:
        return [row[0] for row in self.stand_in.state.rows("SELECT seq FROM effects ORDER BY id")]

    @asynccontextmanager
    async def client(self, *, read_s: float = 20.0) -> AsyncIterator[OdooClient]:
        """The appliance's own."""
        client = OdooClient(base_url=self.url, api_key=SecretStr(API_KEY), timeouts=Timeouts(read_s=read_s))
        async with client:
            yield client


def batch(*seqs: int, padding: int = 0) -> bytes:
    payload = b'{"n": 1, "padding": "%s"}' % (b"x" * padding)
    messages = [
        encode_message(StoredMessage(seq, DEVICE, Kind.TELEMETRY, None, 1_700_000_000_000, 0, payload), "live")
        for seq in seqs
    ]
    return encode_batch(gateway="g", epoch="e", floor=1, settled=0, messages=messages)


@pytest.fixture
async def side() -> AsyncIterator[Served]:
    stand = StandIn(api_key=API_KEY)
    stand.registry.create({"device_id": DEVICE})
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    door = door_to(stand.app)
    serving = asyncio.create_task(door.serve(sockets=[listener]), name="door under test")
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20) as http:
            yield Served(stand, url, http)
    finally:
        door.should_exit = True
        await serving
        await stand.close()


async def test_a_hanging_request_is_never_answered_and_stores_nothing(side: Served) -> None:
    side.fault("hang", count=2)
    with pytest.raises(httpx.ReadTimeout):
        await side.http.post("/iiot/webhook", content=batch(1), timeout=0.2)
    async with side.client(read_s=0.2) as client:
        with pytest.raises(OdooUnavailableError):
            await client.post_batch(batch(1))
        assert side.stored() == []
        assert (await client.post_batch(batch(1))).results[0].status == "stored"


async def test_a_connection_is_reset_in_the_request_and_nothing_is_stored(side: Served) -> None:
    side.fault("reset_request", count=2)
    with pytest.raises((httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
        await side.post(1)
    async with side.client() as client:
        with pytest.raises(OdooUnavailableError):
            await client.post_batch(batch(1))
    assert side.stored() == []


async def test_a_reset_while_much_is_sent_counts_as_too_large(side: Served) -> None:
    side.fault("reset_request", count=1)
    async with side.client() as client:
        with pytest.raises(OdooTooLargeError):
            await client.post_batch(batch(1, padding=3_000_000))


async def test_a_connection_is_reset_in_the_answer_and_everything_is_stored(side: Served) -> None:
    side.fault("reset_answer", count=2)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await side.post(1, 2)
    async with side.client() as client:
        with pytest.raises(OdooUnavailableError):
            await client.post_batch(batch(3))
    assert side.stored() == [1, 2, 3]
    assert {result["status"] for result in (await side.post(1, 2, 3)).json()["results"]} == {"duplicate"}


async def test_a_429_carries_retry_after_and_stores_nothing(side: Served) -> None:
    side.fault("too_many", count=2, delay_s=7)
    answer = await side.post(1)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    async with side.client() as client:
        with pytest.raises(OdooUnavailableError) as caught:
            await client.post_batch(batch(1))
    assert caught.value.retry_after_s == 7
    assert side.stored() == []


@pytest.mark.parametrize("status", [500, 200])
async def test_a_proxys_page_is_no_answer_of_odoo_whatever_its_status(side: Served, status: int) -> None:
    side.fault("html", count=2, status=status)
    answer = await side.post(1)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    async with side.client() as client:
        with pytest.raises(OdooUnavailableError):
            await client.post_batch(batch(1))
    assert side.stored() == []


@pytest.mark.parametrize(
    ("kind", "status"), [("unauthorized", 401), ("forbidden", 403), ("not_found", 404), ("redirect", 302)]
)
async def test_an_odoo_that_refuses_the_appliance_as_a_whole_is_an_alarm(side: Served, kind: str, status: int) -> None:
    side.fault(kind, count=2)
    assert (await side.post(1)).status_code == status
    async with side.client() as client:
        with pytest.raises(OdooAlarmError):
            await client.post_batch(batch(1))
    assert side.stored() == []


async def test_only_bodies_above_the_limit_are_too_large(side: Served) -> None:
    side.fault("too_large", bytes=2000)
    assert (await side.post(1)).status_code == 200
    async with side.client() as client:
        with pytest.raises(OdooTooLargeError):
            await client.post_batch(batch(2, padding=3000))
        assert (await client.post_batch(batch(2, padding=100))).results[0].status == "stored"


async def test_a_share_of_one_half_rejects_every_other_message_of_a_batch(side: Served) -> None:
    side.fault("reject", share=0.5)
    statuses = [result["status"] for result in (await side.post(1, 2, 3, 4)).json()["results"]]
    assert statuses == ["stored", "rejected", "stored", "rejected"]
    assert side.stored() == [1, 3]


async def test_a_failure_hits_the_place_it_was_made_for_and_no_other(side: Served) -> None:
    side.fault("not_found", on="config")
    assert (await side.post(1)).status_code == 200
    async with side.client() as client:
        with pytest.raises(OdooRefusedError, match="no such route"):
            await client.fetch_config(ConfigRequest(serial="SN-1", token="t"))


async def test_a_share_and_a_count_together_hit_as_often_as_the_count_says(side: Served) -> None:
    side.fault("unavailable", share=0.25, count=2)
    assert [(await side.post(seq)).status_code for seq in range(1, 13)] == ([200] * 3 + [503]) * 2 + [200] * 4


async def test_failures_of_one_kind_are_ended_alone(side: Served) -> None:
    side.fault("unavailable")
    side.fault("not_found")
    await side.http.delete("/sim/faults?kind=unavailable")
    assert (await side.post(1)).status_code == 404


@pytest.mark.parametrize(
    "order",
    [
        {"kind": "hang", "on": "nowhere"},
        {"kind": "reject", "on": "webhook"},
        {"kind": "hang", "device": DEVICE},
        {"kind": "html", "status": 999},
        {"kind": "unavailable", "share": 1.5},
        {"kind": "unavailable", "share": 0},
    ],
    ids=str,
)
async def test_a_failure_that_could_never_hit_is_refused(side: Served, order: dict[str, Any]) -> None:
    assert (await side.http.post("/sim/faults", json=order)).status_code == 422


async def test_the_number_of_failures_is_bounded(side: Served) -> None:
    for _ in range(100):
        side.fault("unavailable")
    answer = await side.http.post("/sim/faults", json={"kind": "unavailable"})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many")


def test_a_fault_is_read_from_a_command_line() -> None:
    assert parse("slow:delay_s=2,seconds=30") == {"kind": "slow", "delay_s": 2.0, "seconds": 30.0}
    assert parse("hang:on=config,count=3,share=0.5") == {"kind": "hang", "on": "config", "count": 3, "share": 0.5}
    for text in ("gossip", "slow:delay_s", "slow:often=3", "refuse", "hang:count=many"):
        with pytest.raises(ValueError, match=r"."):
            parse(text)


def test_a_fault_of_the_command_line_is_in_force_from_the_start() -> None:
    with stand_in("--fault", "unavailable:count=1") as addresses:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with httpx.Client(base_url=addresses["url"], headers=headers, trust_env=False) as http:
            statuses = [http.post("/iiot/webhook", json={}).status_code for _ in range(2)]
    assert statuses == [503, 422]


async def test_every_failure_can_be_put_in_force(side: Served) -> None:
    for kind in KINDS:
        side.fault(kind, seconds=5)
    assert {fault["kind"] for fault in side.stand_in.faults.in_force()} == set(KINDS)
