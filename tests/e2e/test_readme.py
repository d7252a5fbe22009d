"""What the README tells a firmware developer to do, done as it stands there, over TLS."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.e2e.harness import API_KEY, Appliance, OdooStandIn
from tests.readme import examples

WITHIN_S = 30
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("curl", "openssl", "mosquitto_rr", "mosquitto_pub", "mosquitto_sub"))),
    reason="needs curl, openssl and mosquitto-clients",
)


class SecureAppliance(Appliance):
    """With HTTPS and a viewer account, as installed."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        viewer = {"MQTT_BROKER_USERNAME": "scada", "MQTT_BROKER_PASSWORD": "a-viewer's password"}
        super().__init__(
            folder, environment={**viewer, "HTTP_USE_TLS": "True", "IIOT_ADVERTISED_HOST": "127.0.0.1", **environment}
        )
        self.url = f"https://{self.host}:{self.http_port}"

    async def is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient(verify=False) as client:
                return (await client.get(f"{self.url}/health")).status_code == 200
        except httpx.TransportError:
            return False


@dataclass
class Reader:
    """Somebody with a terminal open, in a folder of their own."""

    folder: Path
    variables: dict[str, str]

    def script(self, *names: str) -> list[str]:
        """The named examples, one after another, as a command."""
        assigned = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return ["bash", "-euo", "pipefail", "-c", "\n".join([*assigned, *(examples()[name] for name in names)])]

    async def type(self, *names: str) -> str:
        """Run the examples; returns what they print."""
        async with self.started(*self.script(*names)) as process:
            out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
            assert process.returncode == 0, err.decode()
            return out.decode()

    @asynccontextmanager
    async def started(self, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command that runs meanwhile; its group is ended at last, for a shell has children."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)
            await process.communicate()

    def config(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return answer


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[tuple[OdooStandIn, SecureAppliance, Reader]]:
    """Odoo, the appliance, and a reader who holds the label of one device."""
    async with OdooStandIn(tmp_path / "odoo") as odoo, SecureAppliance(tmp_path / "box", odoo.settings) as box:
        async with odoo.client() as client:
            answer = await client.post("/sim/devices", json={"count": 1, "prefix": "press"})
            label = answer.json()["devices"][0]
        reader = Reader(
            tmp_path,
            {
                "GATEWAY": box.host,
                "MQTT": str(box.mqtt_tls_port),
                "API": box.url,
                "SERIAL": label["serial"],
                "TOKEN": label["token"],
                "KEY": API_KEY,
                "VIEWER": "scada",
                "VIEWER_PASSWORD": "a-viewer's password",
            },
        )
        yield odoo, box, reader


async def readings_in(odoo: OdooStandIn) -> list[Any]:
    return [message["payload"] async for message in odoo.arrived("telemetry", payload=True)]


async def until_odoo_has(odoo: OdooStandIn, count: int) -> list[Any]:
    async with asyncio.timeout(WITHIN_S):
        while len(found := await readings_in(odoo)) < count:
            await asyncio.sleep(0.05)
    return found


@needs_tools
@pytest.mark.parametrize("pair", ["pair-http", "pair-mqtt"])
async def test_a_device_pairs_and_its_reading_reaches_odoo(
    stack: tuple[OdooStandIn, SecureAppliance, Reader], pair: str
) -> None:
    odoo, box, reader = stack
    fingerprint = (await reader.type("trust")).strip().partition("=")[2]
    assert f"SHA-256 fingerprint of the certificate authority: {fingerprint}\n" in box.log
    await reader.type(pair, "secret", "publish")
    assert reader.config()["status"] == "ok"
    assert [reading["temperature"] for reading in await until_odoo_has(odoo, 1)] == [71.3]


@needs_tools
async def test_a_viewer_looks_on(stack: tuple[OdooStandIn, SecureAppliance, Reader]) -> None:
    _, _, reader = stack
    await reader.type("trust", "pair-http")
    async with reader.started(*reader.script("view")) as viewer, asyncio.timeout(WITHIN_S):
        assert viewer.stdout is not None
        seen = asyncio.create_task(viewer.stdout.readline())
        while not seen.done():  # a viewer sees what is published after it has subscribed
            await reader.type("secret", "publish")
        device = reader.config()["device_id"]
        assert await seen == f'telemetry/{device}/data {{"temperature": 71.3}}\n'.encode()


@needs_tools
async def test_a_device_receives_a_command(stack: tuple[OdooStandIn, SecureAppliance, Reader]) -> None:
    _, _, reader = stack
    await reader.type("trust", "pair-mqtt")
    async with reader.started(*reader.script("secret", "receive")) as device:
        sent = json.loads(await reader.type("secret", "send"))
        out, err = await asyncio.wait_for(device.communicate(), WITHIN_S)
        assert device.returncode == 0, err.decode()
        received = json.loads(out)
    assert received == {"action": "reset", "params": {"delay": 5}, "command_id": sent["command_id"]}


@needs_tools
async def test_the_same_device_in_python(stack: tuple[OdooStandIn, SecureAppliance, Reader]) -> None:
    odoo, box, reader = stack
    await reader.type("trust", "pair-http")
    async with reader.started(sys.executable, "-c", examples()["paho"]) as device:
        sent = json.loads(await reader.type("secret", "send"))
        _, err = await asyncio.wait_for(device.communicate(), WITHIN_S)
        assert device.returncode == 0, err.decode()
    assert len(await until_odoo_has(odoo, 1)) == 1
    async with httpx.AsyncClient(verify=False, headers={"X-API-Key": API_KEY}) as client:
        status = (await client.get(f"{box.url}/api/v1/command/{sent['command_id']}")).json()
    assert status["state"] == "done"


async def test_the_readme_lists_every_route(stack: tuple[OdooStandIn, SecureAppliance, Reader]) -> None:
    _, box, _ = stack
    async with httpx.AsyncClient(verify=False) as client:
        served = (await client.get(box.url)).json()["endpoints"]
    rows = re.findall(
        r"^\| `([A-Z]+) (/\S*)` \| (no|metrics|read|operate|full) \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert {(method, path, None if scope == "no" else scope) for method, path, scope in rows} == {
        (route["method"], route["path"], route["scope"]) for route in served
    }
