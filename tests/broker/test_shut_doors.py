"""A door that has stopped opening is found out, and one that works is not, however many come."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from appliance import certificates
from appliance.broker.doors import Doors
from appliance.broker.seams import Endpoint

Run = Callable[[Coroutine[Any, Any, None]], None]


class Counted(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counted.made += 1
        transport.abort()  # type: ignore[attr-defined]


async def knock(doors: Doors, port: int) -> None:
    """Come in, twice, with a look after each."""
    for _ in range(2):
        before = Counted.made
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            while Counted.made == before:
                await asyncio.sleep(0.01)
        writer.close()
        assert doors.shut() is None


async def opened(tls: Any) -> tuple[Doors, int]:
    doors = Doors(Counted)
    return doors, await doors.open(Endpoint("127.0.0.1", 0, tls))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_door_that_opens_is_not_shut(run: Run) -> None:
    async def scene() -> None:
        doors, port = await opened(None)
        assert doors.shut() is None
        await knock(doors, port)
        await doors.close()
        await doors.wait_closed()

    run(scene())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_who_waits_before_a_door_that_stopped_opening_is_seen_the_second_time(run: Run, tmp_path: Path) -> None:
    context = certificates.ensure(tmp_path, ["localhost"]).server_context()

    async def scene() -> None:
        doors, port = await opened(context)
        (door,) = doors._with_tls
        asyncio.get_running_loop().remove_reader(door.socket)
        assert doors.shut() is None
        with socket.create_connection(("127.0.0.1", port)):
            assert doors.shut() is None  # it may have come this very moment
            assert doors.shut() == f"nobody is accepted on port {port}, and 1 wait"
            door._accept()
            assert doors.shut() is None
        async with asyncio.timeout(5):
            while door.pending:  # its client has gone
                await asyncio.sleep(0.01)
        await doors.close()

    run(scene())
