"""Starts the demo's processes and joins them: Odoo first, then devices in it, the appliance, the fleet."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from firmware_sim.demo.children import ROOT, Child
from firmware_sim.demo.real_side import RealSide
from firmware_sim.demo.sides import DemoError, OdooSide, StandInSide
from firmware_sim.demo.surroundings import Surroundings
from firmware_sim.office import Office, OfficeError

START_WITHIN_S = 30.0
ODOO_WITHIN_S = 900.0
"""For a real Odoo, which may have to be fetched, and the add-on to be installed in it."""
DRAIN_FLEET_S = 60.0
APPLIANCE_STOPS_S = 15.0

_T = TypeVar("_T")


class Stage:
    """All that runs. The exit stack ends children and closes connections, the last first."""

    def __init__(self, *, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.surroundings = Surroundings(folder)
        # an appliance or an Odoo that remembers earlier demos must not mix them up
        self._prefix = "press" if self.surroundings.is_fresh else f"press-{secrets.token_hex(2)}"
        self._watchers: set[asyncio.Task[Any]] = set()
        self.record = folder / "record.jsonl"
        self.odoo: OdooSide
        self.appliance: httpx.AsyncClient
        self.fleet: Child

    async def start_odoo(self, *, real: bool) -> None:
        """The stand-in, unless the caller has set ODOO_BASE_URL; or a real Odoo."""
        if real:
            await self._start_real_odoo()
            return
        here = self.surroundings
        url = control_url = here.odoo_url
        if not url:
            child = await self._child(
                "stand-in",
                *("firmware_sim", "odoo", "--port", "0", "--data", str(here.odoo_file)),
                environment={"ODOO_API_KEY": here.environment["ODOO_API_KEY"]},
            )
            started = await self._first_line(child, START_WITHIN_S)
            url, control_url = started["url"], started["control_url"]
        here.environment["ODOO_BASE_URL"] = url
        self.odoo = StandInSide(await self._client(control_url), url)

    async def _start_real_odoo(self) -> None:
        """In a database of its own, which ends with it. Who gets and starts Odoo is a tool of the tests."""
        here = self.surroundings
        if here.odoo_url:
            raise DemoError("--odoo starts an Odoo of its own: unset ODOO_BASE_URL")
        if not (ROOT / "tests" / "odoo" / "run.py").is_file():
            raise DemoError("--odoo needs the whole project, as it is in its repository")
        child = await self._child("Odoo", *("tests.odoo.run", "19", "--throwaway", "--json"), environment={}, stop_s=30)
        login = await self._first_line(child, ODOO_WITHIN_S)
        try:
            office = await self._stack.enter_async_context(
                Office(login["url"], database=login["database"], login=login["login"], password=login["password"])
            )
        except OfficeError as error:
            raise DemoError(f"Odoo lets nobody in: {error}") from None
        # the appliance is to be enrolled: what is set goes first
        here.environment |= {"ODOO_BASE_URL": "", "ODOO_API_KEY": ""}
        here.enrols_at = login["url"]
        self.odoo = RealSide(office, login)

    async def _first_line(self, child: Child, within_s: float) -> dict[str, str]:
        """What a server prints once it serves."""
        line = await self._within(within_s, child.line(), f"{child.name} did not start", child)
        if not line:
            await child.watch()
        started: dict[str, str] = json.loads(line)
        return started

    async def make_devices(self, *, count: int, rate: float) -> tuple[list[dict[str, str]], dict[str, str]]:
        """The fleet's devices, and one for whoever tries the demo."""
        try:
            return await self.odoo.make_devices(self._prefix, count=count, interval_s=count / rate)
        except (DemoError, httpx.HTTPError) as error:
            if not self.surroundings.odoo_url:
                raise
            raise DemoError(
                f"ODOO_BASE_URL, {self.surroundings.odoo_url}, is no stand-in that lets the demo make devices: {error}"
            ) from None

    async def start_appliance(self) -> None:
        """The appliance; it and Odoo are told of each other."""
        here = self.surroundings
        child = await self._run_appliance()
        if code := await self.odoo.code():
            await self._enroll(code)
            await child.stop(within_s=APPLIANCE_STOPS_S)
            await self._run_appliance()
        key = here.api_key()
        ca_pem = here.ca_file.read_text()
        self.appliance = await self._client(here.api, ca_pem=ca_pem, key=key)
        await self.odoo.meet({"url": here.api, "api_key": key, "ca_pem": ca_pem if here.http_tls else None})

    async def _run_appliance(self) -> Child:
        here = self.surroundings
        child = await self._child(
            "appliance", "appliance", environment=here.environment, log_all=True, stop_s=APPLIANCE_STOPS_S
        )
        # its authority is not known yet; whom we talk to is our own child on this machine
        unchecked = httpx.AsyncClient(base_url=here.api, verify=False, trust_env=False, timeout=5)  # noqa: S501
        async with unchecked as http:
            await self._within(START_WITHIN_S, _until_healthy(http), "the appliance did not start", child)
            here.ca_file.write_text((await http.get("/ca.pem")).raise_for_status().text)
        return child

    async def _enroll(self, code: str) -> None:
        """As its administrator does, with a code from the gateway's form."""
        here = self.surroundings
        command = Child(
            "enroll",
            *("appliance", "enroll", "--odoo", here.enrols_at, "--code", code),
            folder=self._folder,
            environment=here.environment,
            log_all=True,
        )
        await command.start()
        if await self._within(START_WITHIN_S, command.ended(), "the appliance was not enrolled", command):
            raise DemoError(f"the appliance was not enrolled:\n{command.tail()}")

    async def start_fleet(self, devices: list[dict[str, str]]) -> None:
        """The devices, in a process of their own."""
        here = self.surroundings
        path = self._folder / "devices.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(devices))
        # without TLS for MQTT, firmware may still come by HTTPS
        trust = ("--ca", str(here.ca_file)) if here.mqtt_tls else ("--plain", "--ca", str(here.ca_file))
        self.fleet = await self._child(
            "fleet",
            *("firmware_sim", "fleet", "--devices", str(path), "--record", str(self.record)),
            *("--host", here.mqtt_host, "--port", here.mqtt_port, *trust),
            *("--drain", str(DRAIN_FLEET_S), "--longest-backoff", "5"),
            # what must not do any harm
            *("--misbehave", "duplicate=0.2", "--misbehave", "dup-packet=0.2", "--misbehave", "wrong-topic=0.2"),
            environment={},
            stop_s=2,
        )

    async def _child(
        self, name: str, *arguments: str, environment: dict[str, str], log_all: bool = False, stop_s: float = 5
    ) -> Child:
        child = Child(name, *arguments, folder=self._folder, environment=environment, log_all=log_all)
        self._stack.push_async_callback(child.stop, within_s=stop_s)
        await child.start()
        self.watch(asyncio.create_task(child.watch(), name=f"watch {name}"), self._stack)
        return child

    def watch(self, task: asyncio.Task[Any], stack: AsyncExitStack) -> None:
        """Let the demo fail when this task does; ``stack`` ends it."""
        self._watchers.add(task)
        stack.push_async_callback(cancelled, task)

    async def _client(self, url: str, *, ca_pem: str | None = None, key: str | None = None) -> httpx.AsyncClient:
        trust = ssl.create_default_context(cadata=ca_pem) if ca_pem else True
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return await self._stack.enter_async_context(
            httpx.AsyncClient(base_url=url, headers=headers, verify=trust, trust_env=False, timeout=20)
        )

    async def _within(
        self, seconds: float, work: Coroutine[Any, Any, _T], complaint: str, child: Child | None = None
    ) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await self.beside_the_children(work)
        except TimeoutError:
            last = f". Its last lines:\n{child.tail()}" if child else ""
            raise DemoError(f"{complaint} within {seconds:g} s{last}") from None

    async def beside_the_children(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do it, and fail as soon as a child ends by itself."""
        task = asyncio.create_task(work, name="demo's work")
        try:
            while not task.done():
                watching = {watcher for watcher in self._watchers if not watcher.done()}
                done, _ = await asyncio.wait({task, *watching}, return_when=asyncio.FIRST_COMPLETED)
                for watcher in done & watching:
                    if not watcher.cancelled():
                        watcher.result()
            return task.result()
        finally:
            await cancelled(task)


async def _until_healthy(http: httpx.AsyncClient) -> None:
    while True:
        with suppress(httpx.HTTPError):
            if (await http.get("/health")).status_code == 200:
                return
        await asyncio.sleep(0.1)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """End a task and wait for it; what it failed with is somebody else's matter by then."""
    task.cancel()
    await asyncio.wait({task})
