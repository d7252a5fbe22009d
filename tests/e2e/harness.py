"""The appliance as users run it: a process with an environment, and a data folder and ports it keeps on restart."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).parent.parent.parent
API_KEY = "a-key-for-tests-0123456789"
ODOO_KEY = "a-key-for-odoo-0123456789"
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
_POLL_S = 0.01
_LOWEST_PORT = 10_240


class ProcessError(AssertionError):
    """A process under test ended, or did not start or stop as it should; the text ends with its log."""


def _first_ephemeral_port() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A free port below the range that the kernel gives to outgoing connections.

    Within that range a client that retries while the server is down would, sooner or later, connect to itself and
    keep the server from coming back.
    """
    highest = _first_ephemeral_port()
    while True:
        port = random.randrange(_LOWEST_PORT, highest) if highest > _LOWEST_PORT + 1000 else 0
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """An environment without any setting of the caller's shell, in which Python finds this project."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(extra)


class Server:
    """A child process with a log file that stays the same across restarts."""

    def __init__(self, name: str, arguments: list[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log_path = folder / f"{name}.log"
        self.started_at = 0.0
        """When it was started last, on the monotonic clock."""
        self._arguments = arguments
        self._folder = folder
        self._environment = clean_environment(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote to standard output and standard error in all its lives."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self) -> None:
        """Start the process and do not wait for anything."""
        if self.running:
            raise ProcessError(f"{self.name} is running already")
        with self.log_path.open("ab") as log:
            self.started_at = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, *self._arguments],
                cwd=self._folder,  # no .env of the working directory must reach it
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C meant for the test must not stop it behind the test's back
            )

    async def is_ready(self) -> bool:
        """Whether it serves; for subclasses."""
        return True

    async def start(self, *, timeout_s: float = 20) -> None:
        """Start it and return as soon as it is ready."""
        self.spawn()
        end = time.monotonic() + timeout_s
        while not await self.is_ready():
            if not self.running:
                raise self.error("ended while it was starting")
            if time.monotonic() > end:
                raise self.error(f"was not ready within {timeout_s:g} s")
            await asyncio.sleep(_POLL_S)

    def kill(self) -> None:
        """``kill -9``: no handler runs, nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def stop(self, *, timeout_s: float = 20) -> int:
        """End it as systemd does, by SIGTERM; returns its exit status."""
        if not self.running:
            raise self.error("has ended by itself")
        assert self._process is not None
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self.error(f"did not stop within {timeout_s:g} s") from None

    def error(self, what: str) -> ProcessError:
        """A :class:`ProcessError` with the end of the log."""
        status = None if self._process is None else self._process.poll()
        return ProcessError(f"{self.name} {what} (exit status {status}); its log ends:\n{self.log[-4000:]}")

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.kill()  # nobody will leave what was never entered
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()


class Appliance(Server):
    """``python -m appliance`` on the loopback interface, with a plain MQTT listener and a plain HTTP API.

    ``folder`` holds its log and, below it, its data folder. Ports are chosen once, so it can be killed and started
    again for the same clients. ``environment`` replaces or adds variables.
    """

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.host = "127.0.0.1"
        self.data_folder = folder / "data"
        self.mqtt_port = free_port()
        """Without TLS."""
        self.mqtt_tls_port = free_port()
        self.http_port = free_port()
        self.url = f"http://{self.host}:{self.http_port}"
        settings = {
            "MQTT_BIND": self.host,
            "MQTT_BROKER_PORT": str(self.mqtt_tls_port),
            "MQTT_PLAIN_PORT": str(self.mqtt_port),
            "HOST": self.host,
            "PORT": str(self.http_port),
            "HTTP_USE_TLS": "False",
            "ODOO_BASE_URL": "",
            "IIOT_API_KEY": API_KEY,
            "IIOT_DATA_DIR": str(self.data_folder),
            "MQTT_CLIENT_ID": "gateway-under-test",
        }
        super().__init__(
            "appliance", ["-m", "appliance"], folder=folder, environment=settings | dict(environment or {})
        )

    async def is_ready(self) -> bool:
        """Whether ``GET /health`` answers 200."""
        return await answers(self.host, self.http_port, "/health")

    def client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client for the API, with the key."""
        return httpx.AsyncClient(base_url=self.url, headers={"X-API-Key": API_KEY}, **options)


class OdooStandIn(Server):
    """``python -m firmware_sim odoo``: keeps its memory in a file, so that it may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.control_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = ["--port", str(self.port), "--control-port", str(self.control_port)]
        super().__init__(
            "odoo",
            ["-m", "firmware_sim", "odoo", *arguments, "--data", str(folder / "odoo.db")],
            folder=folder,
            environment={"ODOO_API_KEY": ODOO_KEY},
        )

    @property
    def settings(self) -> dict[str, str]:
        """What an appliance needs to reach it."""
        return {"ODOO_BASE_URL": self.url, "ODOO_API_KEY": ODOO_KEY}

    async def is_ready(self) -> bool:
        """Whether its control door answers."""
        return await answers("127.0.0.1", self.control_port, "/sim/state")

    def client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client for the control door."""
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.control_port}", **options)

    async def know(self, count: int) -> None:
        """Make the devices ``press-001`` … in it."""
        async with self.client() as client:
            answer = await client.post("/sim/devices", json={"count": count, "prefix": "press"})
            answer.raise_for_status()

    async def arrived(self, kind: str, *, after: int = 0, payload: bool = False) -> AsyncIterator[dict[str, Any]]:
        """What took effect, oldest first: ``id``, ``device``, ``msg_id``, ``seq``, …"""
        query = {"kind": kind, "after": str(after), "payload": "1" if payload else "0"}
        async with self.client(timeout=60) as client, client.stream("GET", "/sim/effects", params=query) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                yield json.loads(line)

    async def state(self) -> dict[str, Any]:
        """Its overview."""
        async with self.client() as client:
            answer = await client.get("/sim/state")
            answer.raise_for_status()
            overview: dict[str, Any] = answer.json()
            return overview


async def answers(host: str, port: int, path: str) -> bool:
    """Whether ``GET path`` answers 200; a plain request without a client's set-up time."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readline()
        return status.split()[1:2] == [b"200"]
    except OSError:
        return False
    finally:
        writer.close()
