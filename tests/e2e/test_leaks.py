"""Ten thousand connections that break the protocol leave a whole appliance as it was: memory, descriptors, tasks.

``CONNECTIONS`` in the environment makes it longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.bench.devices import PairedDevice, device_names, pair_devices
from tests.broker.malformed import Case, after_login, before_login, cut_off
from tests.broker.rig import connect
from tests.e2e.harness import ROOT
from tests.e2e.leak_child import VIEWER, VIEWER_PASSWORD

CONNECTIONS = int(os.environ.get("CONNECTIONS", "10000"))
WARM_UP = 3000
AT_ONCE = 20
WITHIN_S = 20.0
MIX = {"first packet": 40, "native": 33, "unpaired": 15, "cut off": 5, "WebSocket": 4, "reset": 2, "viewer": 1}
"""Of a hundred connections."""
MOST_BLOCKS = 0.2
"""Memory blocks of Python's allocator that may come up for each connection: one that stays for each is a leak."""
MOST_RSS_BYTES = 4 << 20
ACCEPTED = b"\x20\x02\x00\x00"


class Child:
    """The appliance, asked over its standard input and output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line, "the appliance has ended"
        answer: dict[str, int] = json.loads(line)
        return answer

    async def holds(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return await self.read()


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.leak_child", str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield Child(process)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Attacker:
    """One of several that take turns; each has a device of its own, so that none ends another's connection."""

    def __init__(self, number: int, paired: PairedDevice, ports: dict[str, int], kinds: Iterator[str]) -> None:
        self._number = number
        self._ports = ports
        self._kinds = kinds
        name = paired.device_id
        self._logins = {
            "native": connect(name, name, paired.password.encode()),
            "unpaired": connect(f"SN-new-{number}"),
            "viewer": connect(f"v{number}", VIEWER, VIEWER_PASSWORD.encode()),
        }
        topics = {"native": paired.topics.telemetry, "unpaired": "iiot/config/request", "viewer": "test/x"}
        self._cases = {kind: cycle(_shuffled(after_login(topic), number)) for kind, topic in topics.items()}
        self._first = cycle(_shuffled(before_login(), number))
        self._cut_off = cycle(_shuffled(list(cut_off(paired.topics.telemetry)), number))
        self.faults: list[str] = []

    async def run(self) -> None:
        for kind in self._kinds:
            if kind == "WebSocket":
                await self._over_websocket()
                continue
            if kind == "first packet":
                case, login = next(self._first), b""
            elif kind in ("cut off", "reset"):
                case, login = next(self._cut_off), self._logins["native"]
            else:
                case, login = next(self._cases[kind]), self._logins[kind]
            await self._over_tcp(kind, case, login)

    async def _over_tcp(self, kind: str, case: Case, login: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ports["mqtt"])
        try:
            if login:
                writer.write(login)
                assert await asyncio.wait_for(reader.readexactly(4), WITHIN_S) == ACCEPTED, kind
            writer.write(case.sent)
            if kind == "reset":
                writer.transport.abort()
                return
            if kind == "cut off":
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), WITHIN_S)
            if answer != case.answer:
                self.faults.append(f"{kind}: {case.name}: {answer!r}")
        except ConnectionResetError:
            pass  # it closed while something was still under way to it
        except TimeoutError:
            self.faults.append(f"{kind}: {case.name}: stays open")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _over_websocket(self) -> None:
        logged_in = random.random() < 0.5
        case: Any = next(self._cases["native"]) if logged_in else next(self._first)
        url = f"ws://127.0.0.1:{self._ports['http']}/mqtt"
        async with open_socket(
            url, subprotocols=[Subprotocol("mqtt")], compression=None, ping_interval=None, close_timeout=5
        ) as websocket:
            got = b""
            try:
                if logged_in:
                    await websocket.send(self._logins["native"])
                    assert await asyncio.wait_for(websocket.recv(), WITHIN_S) == ACCEPTED
                # now and then a frame that is not binary instead
                await websocket.send("text" if random.random() < 0.1 else case.sent)
                while True:
                    got += bytes(await asyncio.wait_for(websocket.recv(decode=False), WITHIN_S))
            except ConnectionClosed:
                if got not in (case.answer, b""):
                    self.faults.append(f"WebSocket: {case.name}: {got!r}")
            except TimeoutError:
                self.faults.append(f"WebSocket: {case.name}: stays open")


def _shuffled(cases: list[Case], seed: int) -> list[Case]:
    random.Random(seed).shuffle(cases)
    return cases


def kinds(count: int) -> Iterator[str]:
    hundred = [kind for kind, share in MIX.items() for _ in range(share)]
    assert len(hundred) == 100
    chance = random.Random(20261122)
    left = [hundred[number % 100] for number in range(count)]
    chance.shuffle(left)
    return iter(left)


async def attack(ports: dict[str, int], paired: list[PairedDevice], count: int) -> None:
    shared = kinds(count)
    attackers = [Attacker(number, device, ports, shared) for number, device in enumerate(paired)]
    await asyncio.gather(*(attacker.run() for attacker in attackers))
    faults = Counter(fault for attacker in attackers for fault in attacker.faults)
    assert not faults, faults.most_common(10)


async def test_ten_thousand_hostile_connections_leave_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    paired = await pair_devices(folder, device_names(AT_ONCE))
    async with started(folder) as child:
        ports = await child.read()
        await attack(ports, paired, WARM_UP)
        before = await child.holds()
        await attack(ports, paired, CONNECTIONS)
        after = await child.holds()
    more = {name: after[name] - before[name] for name in before}
    assert more["accepted"] == CONNECTIONS
    assert (more["descriptors"], more["tasks"]) == (0, 0), more
    assert more["blocks"] < MOST_BLOCKS * CONNECTIONS, more
    assert more["rss_bytes"] < MOST_RSS_BYTES, more
