"""The Odoo of a demo: the stand-in, by the routes that it has for tests, or what else behaves as one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

import httpx

from firmware_sim.office import OfficeError

MOST_COMMANDS = 10_000


class DemoError(Exception):
    """The demo cannot go on; the text is for people."""


TROUBLE = (DemoError, OfficeError, httpx.HTTPError)
"""What a call to Odoo or the appliance may raise: it refuses, or is away."""


class Arrived(NamedTuple):
    """How much Odoo has got so far."""

    readings: int
    commands_done: int


class OdooSide(Protocol):
    """What the demo asks of its Odoo. Any call may raise :data:`TROUBLE`."""

    introduction: str
    """For people: what it is, and what to open in a browser."""

    async def make_devices(
        self, prefix: str, *, count: int, interval_s: float
    ) -> tuple[list[dict[str, str]], dict[str, str]]:
        """The fleet's devices, and one for whoever tries the demo, each with ``serial`` and ``token``."""

    async def code(self) -> str | None:
        """For enrolling the appliance; ``None`` where its key was agreed before."""

    async def meet(self, api: dict[str, Any]) -> None:
        """The appliance runs: ``url``, ``api_key`` and ``ca_pem`` of its API."""

    async def inject(self, fault: str) -> None:
        """Do something wrong on purpose, once."""

    async def arrived(self) -> Arrived:
        """So far."""

    async def send_command(self, device: str, action: str) -> str:
        """Its id."""

    async def command_states(self) -> dict[str, str]:
        """By their ids."""

    async def send_update(self, device: str, version: str) -> str:
        """Its id."""

    async def update(self, update: str) -> tuple[str, str]:
        """State and error."""

    def readings(self) -> AsyncIterator[tuple[str, str]]:
        """Device and ``msg_id`` of all that took effect."""

    async def is_complete(self) -> bool:
        """Whether :meth:`readings` tells of all, and nothing was removed meanwhile."""


class StandInSide:
    """``python -m firmware_sim odoo``; ``http`` is a client for its control routes."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self.introduction = f"a stand-in: open {url}/ to see what it got, and to make it fail"

    async def make_devices(
        self, prefix: str, *, count: int, interval_s: float
    ) -> tuple[list[dict[str, str]], dict[str, str]]:
        state = await self._call("GET", "/sim/state")
        order = {"prefix": prefix, "count": count, "settings": {"telemetry_interval_s": interval_s}}
        made = await self._call("POST", "/sim/devices", order)
        name = f"{prefix}-own"
        serial = f"SN-{name}" if state["devices"] else "SN-1001"
        own = await self._call("POST", "/sim/devices", {"device_id": name, "serial": serial})
        return made["devices"], own["devices"][0]

    async def code(self) -> str | None:
        return None

    async def meet(self, api: dict[str, Any]) -> None:
        await self._call("PUT", "/sim/appliance", api)

    async def inject(self, fault: str) -> None:
        await self._call("POST", "/sim/faults", {"kind": fault, "count": 1})

    async def arrived(self) -> Arrived:
        state = await self._call("GET", "/sim/state")
        return Arrived(state["messages"].get("telemetry", 0), state["commands"].get("done", 0))

    async def send_command(self, device: str, action: str) -> str:
        order = {"device_id": device, "action": action, "params": {"from": "the demo"}}
        return str((await self._call("POST", "/sim/commands", order))["command_id"])

    async def command_states(self) -> dict[str, str]:
        answer = await self._call("GET", f"/sim/commands?limit={MOST_COMMANDS}")
        return {command["command_id"]: command["state"] for command in answer["commands"]}

    async def send_update(self, device: str, version: str) -> str:
        files = (await self._call("GET", "/sim/firmware"))["firmware"]
        file = next((file for file in files if file["version"] == version), None)
        if file is None:  # an earlier demo may have made it
            file = await self._call("POST", "/sim/firmware", {"version": version})
        sent = await self._call("POST", "/sim/updates", {"device_id": device, "firmware": file["id"]})
        return str(sent["update_id"])

    async def update(self, update: str) -> tuple[str, str]:
        found = await self._call("GET", f"/sim/updates/{update}")
        last = found["history"][-1] if found["history"] else {}
        return found["state"], str(last.get("error") or found["problem"] or "")

    async def readings(self) -> AsyncIterator[tuple[str, str]]:
        async with self._http.stream("GET", "/sim/effects", params={"kind": "telemetry"}) as answer:
            async for line in answer.aiter_lines():
                effect = json.loads(line)
                yield effect["device"], effect["msg_id"]

    async def is_complete(self) -> bool:
        return not (await self._call("GET", "/sim/state"))["pruned"]

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        return await call(self._http, method, path, body)


async def call(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    """A route of the stand-in or the appliance; ``DemoError`` if it refuses, ``httpx.HTTPError`` if it is away."""
    answer = await http.request(method, path, json=body)
    if answer.is_error:
        raise DemoError(f"{method} {path} was answered with {answer.status_code}: {answer.text[:300]}")
    try:
        return answer.json() if answer.content else None
    except ValueError:
        raise DemoError(f"{method} {path} was answered with something else than JSON") from None
