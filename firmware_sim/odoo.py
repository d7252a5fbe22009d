"""The stand-in for Odoo as an application and as a process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from appliance.contract.times import Clock
from firmware_sim.standin.commands import Commands
from firmware_sim.standin.contract_routes import ContractRoutes
from firmware_sim.standin.control_routes import ControlRoutes
from firmware_sim.standin.device_feed import DeviceFeed
from firmware_sim.standin.enrolment import Enrolment
from firmware_sim.standin.faults import Faults
from firmware_sim.standin.file_routes import FileRoutes
from firmware_sim.standin.files import Files
from firmware_sim.standin.gateway_routes import GatewayRoutes
from firmware_sim.standin.gateways import Gateways
from firmware_sim.standin.inbox import Inbox
from firmware_sim.standin.interference import Interference
from firmware_sim.standin.overview import Overview
from firmware_sim.standin.pages import Pages
from firmware_sim.standin.pending import PendingWork
from firmware_sim.standin.registry import Registry
from firmware_sim.standin.server import address_of, listen, serve
from firmware_sim.standin.snapshots import Snapshots
from firmware_sim.standin.state import State
from firmware_sim.standin.updates import Updates


class StandIn:
    """All parts of one Odoo; ``path`` is its file, ``None`` keeps it in memory."""

    def __init__(self, *, api_key: str, path: Path | None = None, clock: Clock | None = None) -> None:
        self.state = State(path)
        self.faults = Faults(clock=clock)
        self.registry = Registry(state=self.state, clock=clock)
        self.inbox = Inbox(state=self.state, faults=self.faults)
        self.commands = Commands(state=self.state, clock=clock)
        self.snapshots = Snapshots(state=self.state)
        self.feed = feed = DeviceFeed(state=self.state)
        work = PendingWork(state=self.state, clock=clock)
        self.gateways = gateways = Gateways(state=self.state, feed=feed, work=work, clock=clock)
        enrolment = Enrolment(state=self.state, api_key=api_key, clock=clock)
        contract = ContractRoutes(
            registry=self.registry, inbox=self.inbox, faults=self.faults, gateways=gateways, enrolment=enrolment
        )
        control = ControlRoutes(
            state=self.state,
            registry=self.registry,
            inbox=self.inbox,
            faults=self.faults,
            commands=self.commands,
            requests=contract.requests,
        )
        gateway = GatewayRoutes(
            gateways=gateways,
            enrolment=enrolment,
            feed=feed,
            work=work,
            snapshots=self.snapshots,
            commands=self.commands,
            contract=contract,
        )
        files = Files(state=self.state)
        self.updates = Updates(work=work, files=files, commands=self.commands)
        firmware = FileRoutes(files=files, updates=self.updates, work=work, faults=self.faults, contract=contract)
        overview = Overview(
            state=self.state,
            inbox=self.inbox,
            faults=self.faults,
            commands=self.commands,
            work=work,
            files=files,
            gateways=gateways,
            requests=contract.requests,
            clock=clock,
        )
        pages = Pages(content=overview.content)
        self.routes = [*contract.routes(), *gateway.routes(), *firmware.routes(), *control.routes(), *pages.routes()]
        self.app = Interference(Starlette(routes=self.routes), self.faults)
        """The ASGI application: ``/iiot/…``, with the failures that were asked for, and ``/sim/…``."""

    async def close(self) -> None:
        """Let go of connections and file."""
        await self.commands.close()
        self.snapshots.close()
        self.state.close()


def run(
    *,
    host: str,
    port: int,
    control_port: int,
    api_key: str,
    path: Path | None,
    faults: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Serve until a signal; the control door listens on the loopback interface. ``OSError``: a port is taken.

    ``faults`` are in force from the beginning.
    """

    async def main() -> None:
        stand_in = StandIn(api_key=api_key, path=path)
        for fault in faults:
            stand_in.faults.add(fault)
        front = listen(host, port)
        stand_in.updates.public_url = address_of(front)
        try:
            await serve(stand_in.app, stand_in.faults, front, listen("127.0.0.1", control_port))
        finally:
            await stand_in.close()

    with suppress(KeyboardInterrupt):
        asyncio.run(main())
