"""A whole plant for tests: a real Odoo, appliances that were enrolled in it by code, and simulated devices."""

from __future__ import annotations

import asyncio
import math
import operator
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from firmware_sim.fleet import Fleet, FleetPlan
from firmware_sim.habits import Habits
from firmware_sim.office import Office
from firmware_sim.pairing import Contact, Label
from firmware_sim.record import FleetRecord, read_record
from tests.e2e.harness import API_KEY, Appliance, clean_environment
from tests.odoo.cluster import Cluster
from tests.odoo.databases import new_database
from tests.odoo.releases import Odoo
from tests.odoo.server import LOGIN, PASSWORD, OdooServer

WITHIN_S = 60.0
SYNC_S = 3.5
"""An appliance that hears nothing of work asks after so long."""
EQUIPMENT = "maintenance.equipment"
TEMPERATURE = "x_temperature"
"""A field that the plant adds to the machines of Maintenance, as its people would."""
TEMPLATE = """{"action": {{ action | tojson }}{% if params.speed %}, "speed": {{ params.speed }}{% endif %}}"""

_T = TypeVar("_T")


async def eventually(ask: Callable[[], Awaitable[_T]], good: Callable[[_T], object], within_s: float = WITHIN_S) -> _T:
    """What ``ask`` says, once it is good; an Odoo or appliance that is away is asked again."""
    last: _T | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                with suppress(httpx.HTTPError):
                    last = await ask()
                    if good(last):
                        return last
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"after {within_s:g} s still: {last}") from None


class EnrolledAppliance(Appliance):
    """An appliance that knows no Odoo until it is enrolled; devices talk MQTT to it without TLS."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self._settings = {"IIOT_ADVERTISED_HOST": "127.0.0.1", "MQTT_CLIENT_ID": folder.name, **settings}
        super().__init__(folder, environment=self._settings)
        self._settings |= {"HOST": self.host, "PORT": str(self.http_port), "HTTP_USE_TLS": "False"}
        self._settings |= {"IIOT_DATA_DIR": str(self.data_folder), "IIOT_API_KEY": API_KEY}

    async def enroll(self, odoo_url: str, code: str, *, pushes: bool = True) -> None:
        """``iiot-appliance enroll``, and the start after which it counts. Without ``pushes`` Odoo can't call it."""
        await self.start()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "appliance", "enroll", "--odoo", odoo_url, "--code", code),
            *(() if pushes else ("--no-api-key",)),
            cwd=self.folder,
            env=clean_environment(self._settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
        assert process.returncode == 0, out.decode()
        await self.stop()
        await self.start()

    async def get(self, path: str) -> Any:
        """A route of its API."""
        async with self.client(timeout=30) as client:
            return (await client.get(path)).raise_for_status().json()


class Devices:
    """Simulated devices of one appliance, and their record of what was acknowledged."""

    def __init__(self, fleet: Fleet, record: Path) -> None:
        self.fleet = fleet
        self.record_path = record

    def record(self) -> FleetRecord:
        """So far; to be read to the end only when they have stopped."""
        return read_record(self.record_path)


class Plant:
    """One Odoo that serves one database. ``start`` and ``kill`` are the server's, without holding the loop."""

    def __init__(self, odoo: Odoo, cluster: Cluster, database: str, folder: Path, *, workers: int = 0) -> None:
        self.odoo = odoo
        self.cluster = cluster
        self.folder = folder
        self._workers = workers
        self._port: int | None = None
        self.serve(database)
        self.profile = 0
        self.boxes: list[EnrolledAppliance] = []
        self._fleets = 0

    def serve(self, database: str) -> None:
        """Let this database stand at the address, from the next start on."""
        log = self.folder / "odoo.log"
        self.server = OdooServer(self.odoo, self.cluster, database, workers=self._workers, port=self._port, log=log)
        self._port = self.server.port

    @property
    def database(self) -> str:
        return self.server.database

    def sql(self, text: str) -> list[list[str]]:
        return self.cluster.sql(text, self.database)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    def office(self) -> Office:
        """To be entered: an administrator logs in."""
        return Office(self.server.url, database=self.database, login=LOGIN, password=PASSWORD)

    async def furnish(self) -> None:
        """What people set up once: a field of their machines, a profile, a rule from readings to machines."""
        async with self.office() as office:
            await office.new_field(EQUIPMENT, TEMPERATURE, "Temperature")
            self.profile = await office.create(
                "iiot.device.profile",
                name="Press",
                command_template=TEMPLATE,
                settings='{"telemetry_interval_s": 0.2}',
                metrics="temperature",
            )
            await office.new_rule(
                profile=self.profile, path="$.temperature", model=EQUIPMENT, field=TEMPERATURE, rounding=0.1
            )

    async def appliance(self, name: str, *, pushes: bool = True, **settings: str) -> EnrolledAppliance:
        """A new one, running and enrolled as the gateway of that name."""
        box = EnrolledAppliance(self.folder / name, **settings)
        self.boxes.append(box)
        async with self.office() as office:
            code = await office.new_code(await office.create("iiot.gateway", name=name))
            await box.enroll(self.server.url, code, pushes=pushes)
            await eventually(
                lambda: office.find("iiot.gateway", [("name", "=", name), ("last_contact", "!=", False)], "id"), bool
            )
        return box

    async def labels(self, prefix: str, count: int, **values: Any) -> list[Label]:
        """New devices, each bound to a machine of Maintenance with its serial number."""
        labels = []
        async with self.office() as office:
            for number in range(1, count + 1):
                name = f"{prefix}-{number:03d}"
                machine = await office.create(EQUIPMENT, name=f"Machine {name}", serial_no=f"SN-{name}")
                made = await office.new_device(
                    profile=self.profile,
                    device_id=name,
                    serial=f"SN-{name}",
                    **{"business_ref": f"{EQUIPMENT},{machine}", **values},
                )
                labels.append(Label(serial=made["serial"], token=made["token"]))
        return labels

    @asynccontextmanager
    async def devices(
        self,
        box: EnrolledAppliance,
        labels: list[Label],
        *,
        rate: float | None = None,
        window: int = 4,
        store: Path | None = None,
    ) -> AsyncIterator[Devices]:
        """Simulated devices that are paired over MQTT and work until the context ends; then all is acknowledged.

        ``rate`` 0: as fast as acknowledgements come.
        """
        self._fleets += 1
        record = self.folder / f"record-{self._fleets}.jsonl"
        plan = FleetPlan(
            contact=Contact(host=box.host, port=box.mqtt_port, ca_pem=None, same_address=True),
            labels=tuple(labels),
            rate=rate,
            window=window,
            longest_backoff_s=0.5,
            record=record,
            store=store,
            seed=self._fleets,
            habits=Habits(boot_s=0.05, confirm_within_s=20, flush_s=0.5),
        )
        fleet = Fleet(plan, report=lambda _state: None)
        running = asyncio.create_task(fleet.run(), name="fleet")
        try:
            for device in fleet.devices:
                ready = asyncio.create_task(device.ready.wait(), name="device ready")
                await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED, timeout=WITHIN_S)
                assert ready.done(), f"{device.serial} is not connected: {box.log[-2000:]}"
            yield Devices(fleet, record)
        except BaseException:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            raise
        fleet.stop()
        assert await running, "not everything was acknowledged"

    def end(self) -> None:
        """Nothing of it runs any more."""
        for box in self.boxes:
            box.kill()
        self.server.kill()

    # --- what became of it -------------------------------------------------------------------------------------

    async def drained(self, box: EnrolledAppliance) -> None:
        """Until nothing waits on the appliance's disk; what waits must become less as long as it takes."""

        async def waiting() -> float:
            return float((await box.get("/api/v1/buffer"))["waiting"])

        fewest = math.inf
        while fewest > 0:
            fewest = await eventually(waiting, partial(operator.gt, fewest))

    def stored(self) -> Counter[tuple[str, str]]:
        """How often each reading, by device and ``msg_id``, is in Odoo."""
        rows = self.sql(
            "SELECT d.device_id, t.payload->>'msg_id', count(*) FROM iiot_telemetry t "
            "JOIN iiot_device d ON d.id = t.device_id GROUP BY 1, 2"
        )
        return Counter({(device, msg_id): int(count) for device, msg_id, count in rows})

    async def check_counts(self, box: EnrolledAppliance, *records: FleetRecord, at_least: int = 1) -> int:
        """Devices' records, rows in Odoo and the appliance's ledger tell the same, each reading once; their number."""
        acknowledged = set[tuple[str, str]]().union(*(record.acknowledged for record in records))
        assert all(record.complete for record in records)
        assert len(acknowledged) >= at_least, "that was no load"
        names = {device for device, _ in acknowledged}
        stored = Counter({reading: count for reading, count in self.stored().items() if reading[0] in names})
        missing = acknowledged - stored.keys()
        assert not missing, (
            f"{len(missing)} of {len(acknowledged)} acknowledged readings are lost: {sorted(missing)[:5]}"
        )
        assert stored.keys() == acknowledged
        twice = [reading for reading, count in stored.items() if count > 1]
        assert not twice, f"{len(twice)} readings are there more than once: {twice[:5]}"
        ledger = await box.get("/api/v1/ledger")
        lines = [line for line in ledger["devices"] if line["device"] in names]
        assert ledger["adds_up"], ledger
        async with self.office() as office:
            await eventually(
                lambda: office.find("iiot.gateway", [], "name", "ledger_adds_up", "ledger_short", "ledger_gap"),
                lambda gateways: all(gateway["ledger_adds_up"] for gateway in gateways),
            )
        assert sum(line["stored"] for line in lines) == len(acknowledged), lines
        assert all(line["waiting"] == line["parked"] == line["removed"] == 0 for line in lines), lines
        return len(acknowledged)


@contextmanager
def new_plant(odoo: Odoo, cluster: Cluster, folder: Path, *, workers: int = 0) -> Iterator[Plant]:
    """A furnished plant on a database of its own, whose Odoo runs. For fixtures: no event loop may run."""
    with new_database(odoo, cluster) as database:
        plant = Plant(odoo, cluster, database, folder, workers=workers)
        try:
            plant.server.start()
            asyncio.run(plant.furnish())
            yield plant
        finally:
            plant.end()
