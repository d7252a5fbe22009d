"""The stand-in's firmware: files with Range for those who have the key, and updates sent through an appliance."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from firmware_sim.image import make
from firmware_sim.standin.files import MOST_FILES, byte_range
from firmware_sim.standin.refusal import RefusalError
from tests.firmware_sim.test_stand_in import Side, opened, report


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with opened() as one:
        one.stand_in.commands.first_pause_s = 0.0
        await one.sim("POST", "devices", {"prefix": "press", "count": 2})
        yield one


class FakeAppliance:
    """The route that takes updates, and nothing else."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[dict[str, Any]] = []
        self.app = Starlette(routes=[Route("/api/v1/ota/send", self.take, methods=["POST"])])

    async def take(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        status = self.statuses.pop(0) if self.statuses else 202
        return JSONResponse({"update_id": self.bodies[-1]["update_id"], "state": "fetching"}, status)

    async def join(self, side: Side) -> None:
        await side.sim("PUT", "appliance", {"url": "http://appliance", "api_key": "k" * 20})
        client = side.stand_in.commands._client
        assert client is not None
        client._transport = httpx.ASGITransport(self.app)


async def get(side: Side, path: str, **headers: str) -> httpx.Response:
    return await side.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


# --- files ----------------------------------------------------------------------------------------------------


async def test_a_file_is_made_or_uploaded_and_comes_back_as_it_was(side: Side) -> None:
    made = await side.sim("POST", "firmware", {"version": "2.0.0", "size": 5000, "bad": "boot"})
    content = (await get(side, made["path"])).content
    assert (len(content), made["size"], made["bad"]) == (5000, 5000, "boot")
    assert hashlib.sha256(content).hexdigest() == made["sha256"]
    assert b'"bad": "boot"' in content[:100]
    octets = {"Content-Type": "application/octet-stream"}
    answer = await side.http.post("/sim/firmware?version=3.1", content=b"\x7fELF" * 1000, headers=octets)
    uploaded = answer.raise_for_status().json()
    assert (await get(side, uploaded["path"])).content == b"\x7fELF" * 1000
    listed = (await side.sim("GET", "firmware"))["firmware"]
    assert [file["version"] for file in listed] == ["2.0.0", "3.1"]
    await side.sim("DELETE", f"firmware/{made['id']}")
    assert (await get(side, made["path"])).status_code == 404


async def test_a_file_needs_the_key(side: Side) -> None:
    made = await side.sim("POST", "firmware", {"version": "2.0.0"})
    assert (await get(side, made["path"], authorization="Bearer wrong")).status_code == 401


@pytest.mark.parametrize(
    ("header", "status", "wanted"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=1000-1999", 206, slice(1000, 2000)),
        ("bytes=4000-999999", 206, slice(4000, None)),
        ("bytes=-100", 206, slice(-100, None)),
        ("bytes=5000-", 416, None),
        ("bytes=7-3", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
async def test_a_range_is_served_as_http_says(side: Side, header: str, status: int, wanted: slice | None) -> None:
    made = await side.sim("POST", "firmware", {"version": "2.0.0", "size": 5000})
    whole = (await get(side, made["path"])).content
    answer = await get(side, made["path"], range=header)
    assert answer.status_code == status
    if wanted is not None:
        assert answer.content == whole[wanted]
        assert answer.headers["ETag"] == f'"{made["sha256"]}"'
    else:
        assert answer.headers["Content-Range"] == "bytes */5000"


async def test_a_range_of_another_file_gets_the_whole_one(side: Side) -> None:
    made = await side.sim("POST", "firmware", {"version": "2.0.0", "size": 5000})
    assert (await get(side, made["path"], range="bytes=9-", if_range='"another"')).status_code == 200
    assert (await get(side, made["path"], range="bytes=9-", if_range=f'"{made["sha256"]}"')).status_code == 206


def test_a_range_is_first_and_last_byte() -> None:
    assert byte_range("bytes=5-9", 100) == (5, 9)
    assert byte_range("bytes=-200", 100) == (0, 99)
    with pytest.raises(RefusalError):
        byte_range("bytes=100-", 100)


async def test_a_large_file_comes_in_pieces_and_whole(side: Side) -> None:
    made = await side.sim("POST", "firmware", {"version": "2.0.0", "size": 3_500_000})
    content = (await get(side, made["path"], range="bytes=1048570-")).content
    assert content == make("2.0.0", 3_500_000, seed=0)[1_048_570:]


async def test_a_corrupt_file_differs_in_one_byte_and_keeps_its_size(side: Side) -> None:
    made = await side.sim("POST", "firmware", {"version": "2.0.0", "size": 5000})
    await side.fault("corrupt", count=1)
    bad, good = [(await get(side, made["path"])).content for _ in range(2)]
    assert len(bad) == len(good)
    assert sum(a != b for a, b in zip(bad, good, strict=True)) == 1


@pytest.mark.parametrize(
    "order", [{}, {"version": ""}, {"version": "1", "size": 0}, {"version": "1", "bad": "smell"}], ids=str
)
async def test_a_file_that_makes_no_sense_is_not_made(side: Side, order: dict[str, Any]) -> None:
    assert (await side.http.post("/sim/firmware", json=order)).status_code == 422


async def test_the_number_of_files_is_bounded(side: Side) -> None:
    for _ in range(MOST_FILES):
        await side.sim("POST", "firmware", {"version": "1", "size": 10})
    assert (await side.http.post("/sim/firmware", json={"version": "1", "size": 10})).status_code == 409


# --- updates --------------------------------------------------------------------------------------------------


async def test_an_update_goes_through_the_appliances_api_and_is_followed_to_its_end(side: Side) -> None:
    appliance = FakeAppliance()
    await appliance.join(side)
    side.stand_in.updates.public_url = "http://odoo.example:8069"
    file = await side.sim("POST", "firmware", {"version": "2.0.0", "size": 5000})
    sent = await side.sim("POST", "updates", {"device_id": "press-001", "firmware": file["id"]})
    assert (sent["state"], sent["problem"], sent["waiting"]) == ("queued", None, False)
    (body,) = appliance.bodies
    assert body == {
        "update_id": sent["update_id"],
        "device_id": "press-001",
        "action": "start_update",
        "params": {
            "version": "2.0.0",
            "url": f"http://odoo.example:8069{file['path']}",
            "size": 5000,
            "sha256": file["sha256"],
        },
    }
    for seq, state in enumerate(("accepted", "installed"), 1):
        await report(side, seq, "ota_status", {"update_id": sent["update_id"], "state": state, "version": "2.0.0"})
    seen = await side.sim("GET", f"updates/{sent['update_id']}")
    assert (seen["state"], [entry["state"] for entry in seen["history"]]) == ("installed", ["accepted", "installed"])


async def test_an_update_is_taken_back_and_another_rolled_back_through_the_same_route(side: Side) -> None:
    appliance = FakeAppliance()
    await appliance.join(side)
    for action in ("cancel_update", "rollback"):
        await side.sim("POST", "updates", {"device_id": "press-001", "action": action, "update_id": "u-1"})
    assert [(body["action"], body["update_id"]) for body in appliance.bodies] == [
        ("cancel_update", "u-1"),
        ("rollback", "u-1"),
    ]


async def test_an_update_that_cannot_be_pushed_waits_and_one_that_is_refused_does_not(side: Side) -> None:
    appliance = FakeAppliance(503, 503, 503, 503, 422)
    await appliance.join(side)
    order = {"device_id": "press-001", "params": {"version": "2", "url": "http://x/f"}}
    waits = await side.sim("POST", "updates", order)
    assert (waits["state"], waits["waiting"]) == ("not_sent", True)
    refused = await side.sim("POST", "updates", order)
    assert (refused["state"], refused["waiting"]) == ("not_sent", False)
    assert refused["problem"].startswith("422")
    assert len(appliance.bodies) == 5


async def test_an_update_that_is_not_to_be_pushed_waits(side: Side) -> None:
    appliance = FakeAppliance()
    await appliance.join(side)
    sent = await side.sim("POST", "updates", {"device_id": "press-001", "params": {"version": "2"}, "push": False})
    assert (sent["waiting"], appliance.bodies) == (True, [])


async def test_an_update_with_a_file_that_is_not_there_is_refused(side: Side) -> None:
    for number, status in ((7, 404), ("7", 422), (True, 422)):
        order = {"device_id": "press-001", "firmware": number}
        assert (await side.http.post("/sim/updates", json=order)).status_code == status
