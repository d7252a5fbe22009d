"""Another version in the place of the installed one: forth, back, and back by itself, with a full buffer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from appliance.store.schema import NEEDS
from tests.bench.devices import PairedDevice, device_names, pair_devices
from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import OdooStandIn, free_port
from tests.install.bundles import changed_version
from tests.install.conftest import MakeMachine
from tests.install.machine import Machine
from tests.install.roots import debian

DEVICES = 5
DATA = "/var/lib/iiot-appliance"
ADDITION = (
    "\n\ndef migrate(",
    """

@migrations()
def m900_addition(tables: Tables) -> None:
    \"\"\"What a later version may add.\"\"\"
    tables.execute("CREATE TABLE later (x INTEGER) STRICT")
    tables.execute("ALTER TABLE devices ADD COLUMN later TEXT")


def migrate(""",
)


@pytest.fixture(scope="session")
def later(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions after this one: ``later`` adds to the database, ``broken`` does and never gets ready, and ``needs``
    changes the database so that this version could not go on with it."""
    folder = tmp_path_factory.mktemp("later")
    schema = "appliance/store/schema.py"
    never = ('        notifier.tell("READY=1")\n', "        await asyncio.sleep(3600)\n")
    versions = {
        "later": {schema: ADDITION},
        "broken": {schema: ADDITION, "appliance/process.py": never},
        "needs": {schema: (f'NEEDS = "{NEEDS}"', 'NEEDS = "m900_later"')},
    }
    for name, changes in versions.items():
        changed_version(bundles / "bundle.run", folder / name, "0.2.0", changes)
    return folder


class Factory:
    """An installed appliance, devices that publish to it, and an Odoo that is switched off at first."""

    def __init__(self, box: Machine, odoo: OdooStandIn, paired: list[PairedDevice], port: int) -> None:
        self.box = box
        self.odoo = odoo
        self.devices = [RecordingDevice(each, port=port) for each in paired]
        self.port = port

    @property
    def acknowledged(self) -> set[str]:
        return {key for device in self.devices for key in device.acknowledged}

    async def publish(self, count: int) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        for device in self.devices:
            device.set_full_speed(True)
        async with asyncio.timeout(60):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.02)
        for device in self.devices:
            device.set_full_speed(False)

    async def run(self, command: str, *, check: bool = True) -> tuple[int, str]:
        """In the box; status and what it said."""
        done = await asyncio.to_thread(self.box.run, command, check=check)
        return done.returncode, done.stdout + done.stderr

    def waiting(self) -> int:
        return int(json.loads(self.box.says("iiot-appliance buffer --json"))["waiting"])

    async def arrived_once(self) -> None:
        """With Odoo back, each acknowledged reading takes effect there once."""
        async with self.odoo, asyncio.timeout(90):
            seen: list[str] = []
            while self.acknowledged - set(seen):
                await asyncio.sleep(0.5)
                seen = [effect["msg_id"] async for effect in self.odoo.arrived("telemetry")]
            assert len(seen) == len(set(seen))


@asynccontextmanager
async def factory(box: Machine, folder: Path) -> AsyncIterator[Factory]:
    odoo = OdooStandIn(folder / "odoo")
    async with odoo:
        await odoo.know(DEVICES)
    port = free_port()
    settings = {
        "MQTT_PLAIN_PORT": port,
        "MQTT_BROKER_PORT": free_port(),
        "PORT": free_port(),
        "MQTT_BIND": "127.0.0.1",
        "HOST": "127.0.0.1",
        **odoo.settings,
    }
    box.run("systemctl stop iiot-appliance")
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    box.run("cat >> /etc/iiot-appliance/appliance.env", text=lines)
    paired = await pair_devices(box.root / DATA.lstrip("/"), device_names(DEVICES))
    box.run(f"chown -R iiot-appliance:iiot-appliance {DATA}; systemctl start iiot-appliance")
    async with AsyncExitStack() as stack:
        site = Factory(box, odoo, paired, port)
        for device in site.devices:
            task = asyncio.create_task(device.run())
            stack.callback(task.cancel)
        yield site


async def test_an_upgrade_with_a_full_buffer_and_the_way_back_lose_nothing(
    machine: MakeMachine, installed: Path, later: Path, tmp_path: Path
) -> None:
    box = machine(installed, debian("bookworm"), network=True, binds={later: "/later"})
    box.run("mkdir -p /etc/systemd/system/iiot-appliance.service.d")
    box.run("printf '[Service]\\nNice=3\\n' > /etc/systemd/system/iiot-appliance.service.d/mine.conf")
    box.run("systemctl daemon-reload")
    async with factory(box, tmp_path) as site:
        await site.publish(3000)
        first = box.says("readlink /opt/iiot-appliance/current")
        status, said = await site.run("bash /later/later/install.sh upgrade")
        assert "Version 0.2.0-" in said
        second = box.says("readlink /opt/iiot-appliance/current")
        assert (first != second, box.says("readlink /opt/iiot-appliance/previous")) == (True, first)
        assert (box.show("Nice"), box.show("ActiveState")) == ("3", "active")
        assert "# Settings of the IIoT" in box.says("cat /etc/iiot-appliance/appliance.env")
        await site.publish(500)
        assert site.waiting() >= len(site.acknowledged)

        # the version before goes on with what the newer one has changed and stored
        status, said = await site.run("iiot-appliance-install rollback")
        assert (status, "runs again" in said) == (0, True)
        assert box.says("readlink /opt/iiot-appliance/current") == first
        assert "additions of a newer version, which stay as they are: m900_addition" in box.journal()
        await site.publish(500)
        assert site.waiting() >= len(site.acknowledged)
        await site.run("iiot-appliance-install rollback")
        assert box.says("readlink /opt/iiot-appliance/current") == second
        assert len(box.says("ls /opt/iiot-appliance/versions").split()) == 2
        await site.arrived_once()


async def test_a_version_that_does_not_get_ready_gives_way_to_the_one_before_and_nothing_is_lost(
    machine: MakeMachine, installed: Path, later: Path, tmp_path: Path
) -> None:
    box = machine(installed, debian("bookworm"), network=True, binds={later: "/later"})
    async with factory(box, tmp_path) as site:
        await site.publish(2000)
        programs = box.digest("/opt/iiot-appliance", "/usr/local", "/etc")
        # it listens, so devices publish to it, and takes what they send; but it never says that it is ready
        running = asyncio.create_task(site.run("READY_WITHIN_S=8 bash /later/broken/install.sh upgrade", check=False))
        switched = lambda: "0.2.0" in box.says("readlink /opt/iiot-appliance/current")  # noqa: E731
        await asyncio.to_thread(box.wait_until, switched, 180)
        await site.publish(200)
        status, said = await running
        assert (status, "did not get ready within 8 s" in said, "runs again" in said) == (1, True, True), said
        assert box.digest("/opt/iiot-appliance", "/usr/local", "/etc") == programs
        assert box.show("ActiveState") == "active"
        await site.publish(200)
        assert site.waiting() >= len(site.acknowledged)

        # a version from which there is no way back does not even begin
        process = box.show("MainPID")
        status, said = await site.run("bash /later/needs/install.sh upgrade", check=False)
        assert (status, "there would be no way back" in said) == (1, True), said
        assert (box.show("MainPID"), box.digest("/opt/iiot-appliance", "/usr/local", "/etc")) == (process, programs)
        await site.arrived_once()
