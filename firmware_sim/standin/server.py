"""The stand-in's doors: one that appliances use and failures may close, and one for control that stays open."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from firmware_sim.standin.faults import Faults
from firmware_sim.standin.interference import TellingProtocol

BACKLOG = 100


class Door(uvicorn.Server):
    """A uvicorn server that leaves the process's signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to :func:`serve`."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. ``OSError`` if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit it. asyncio would set it, but not where the listener's protocol number is 0, and then the
        # second part of each answer waits 40 ms for the acknowledgement of the first
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def door_to(app: ASGIApp) -> Door:
    """A door that is not open yet: ``serve(sockets=[…])`` opens it, ``should_exit`` closes it."""
    return Door(
        uvicorn.Config(
            app,
            http=TellingProtocol,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )


async def _keep_front_open(app: ASGIApp, faults: Faults, listener: socket.socket) -> None:
    """Serve appliances; while connections are to be refused, nothing listens."""
    host, port = listener.getsockname()[:2]
    while True:
        door = door_to(app)
        serving = asyncio.create_task(door.serve(sockets=[listener]), name="stand-in front door")
        try:
            while not faults.refused_for_s():
                faults.door_changed.clear()
                changed = asyncio.create_task(faults.door_changed.wait(), name="stand-in door changed")
                done, _ = await asyncio.wait({serving, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if serving in done:
                    return serving.result()
        finally:
            door.should_exit = True
            await serving  # closes the listener too
        while seconds := faults.refused_for_s():
            faults.door_changed.clear()
            try:
                await asyncio.wait_for(faults.door_changed.wait(), seconds)
            except TimeoutError:
                continue
        listener = listen(host, port)


async def serve(app: ASGIApp, faults: Faults, front: socket.socket, control: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; the first line on standard output tells both addresses as JSON."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    control_door = door_to(app)
    tasks = {
        asyncio.create_task(stop.wait(), name="stand-in stop"),
        asyncio.create_task(_keep_front_open(app, faults, front), name="stand-in front"),
        asyncio.create_task(control_door.serve(sockets=[control]), name="stand-in control door"),
    }
    addresses = {"url": address_of(front), "control_url": address_of(control)}
    sys.stdout.write(json.dumps(addresses) + "\n")  # connections made from now on wait in the sockets' backlog
    sys.stdout.flush()
    _, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    control_door.should_exit = True
    for task in rest:
        if task.get_name() != "stand-in control door":
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def address_of(listener: socket.socket) -> str:
    """Where it is reached from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - recognised, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
