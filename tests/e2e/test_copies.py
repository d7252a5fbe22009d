"""Copies and restores, on both sides: nothing is lost as somebody else's repeat, nothing is there twice."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.enrolment import enroll
from appliance.settings import Settings
from tests.bench.devices import PairedDevice, device_names, pair_devices
from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import Appliance, OdooStandIn

WITHIN_S = 30


@pytest.fixture
async def odoo(tmp_path: Path) -> AsyncIterator[OdooStandIn]:
    stand_in = OdooStandIn(tmp_path / "odoo")
    async with stand_in:
        await stand_in.know(2)
        await sim(stand_in, "PUT", "gateways", {"interval_s": 1})
        yield stand_in


async def sim(odoo: OdooStandIn, method: str, path: str, body: Any = None) -> Any:
    async with odoo.client() as client:
        answer = await client.request(method, f"/sim/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll what only the processes themselves know."""
    try:
        async with asyncio.timeout(WITHIN_S):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {WITHIN_S} s: {what}") from None


class Box:
    """An appliance with two devices of its own. ``name`` tells its readings from those of a copy."""

    def __init__(self, folder: Path, odoo: OdooStandIn, environment: dict[str, str] | None = None) -> None:
        self.odoo = odoo
        self.appliance = Appliance(folder, environment=environment or odoo.settings)
        self.published: set[str] = set()
        self.paired: list[PairedDevice] = []

    @property
    def data(self) -> Path:
        return self.appliance.data_folder

    async def pair(self) -> None:
        self.paired = await pair_devices(self.data, device_names(2))

    def copy_to(self, folder: Path) -> Box:
        """Its twin, made from the data folder as it lies there."""
        twin = Box(folder, self.odoo)
        twin.paired = self.paired
        shutil.copytree(self.data, twin.data)
        return twin

    async def publish(self, count: int, *, first: int, device: int = 0) -> None:
        """Readings ``first`` … of a device, acknowledged on return."""
        one = RecordingDevice(self.paired[device], port=self.appliance.mqtt_port)
        one.published = first - 1
        running = asyncio.create_task(one.run(), name=one.paired.device_id)
        try:
            async with asyncio.timeout(WITHIN_S):
                await one.connected.wait()
                for _ in range(count):
                    one.publish()
                await one.idle.wait()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        self.published |= one.readings_acknowledged()

    async def health(self) -> dict[str, Any]:
        async with self.appliance.client() as client:
            health: dict[str, Any] = (await client.get("/health")).json()
            return health

    async def alarm(self) -> str:
        return str((await self.health())["uplink"]["alarm"] or "")

    async def waiting(self) -> int:
        return int((await self.health())["buffer"]["waiting"])


async def arrived(odoo: OdooStandIn) -> Counter[str]:
    return Counter([reading["msg_id"] async for reading in odoo.arrived("telemetry")])


async def all_arrived_once(odoo: OdooStandIn, *sets: set[str]) -> None:
    expected = Counter(set().union(*sets))

    async def there() -> bool:
        return len(await arrived(odoo)) >= len(expected)

    await until(f"{len(expected)} readings in Odoo", there)
    assert await arrived(odoo) == expected


async def events(odoo: OdooStandIn) -> list[str]:
    return [each["payload"]["event"] async for each in odoo.arrived("gateway_event", payload=True)]


async def gateway(odoo: OdooStandIn) -> dict[str, Any]:
    (one,) = (await sim(odoo, "GET", "gateways"))["gateways"]
    return dict(one)


@asynccontextmanager
async def running(*boxes: Box) -> AsyncIterator[None]:
    for box in boxes:
        await box.appliance.start()
    try:
        yield
    finally:
        for box in boxes:
            if box.appliance.running:
                await box.appliance.stop()


@pytest.fixture
async def box(tmp_path: Path, odoo: OdooStandIn) -> Box:
    one = Box(tmp_path / "box", odoo)
    await one.pair()
    return one


async def test_a_staging_copy_of_odoo_gets_nothing_and_both_sides_say_why(box: Box, odoo: OdooStandIn) -> None:
    async with running(box):
        await box.publish(5, first=1)
        await all_arrived_once(odoo, box.published)
    uuids = await sim(odoo, "PUT", "database", {})
    posted = (await odoo.state())["requests"]["webhook"]
    async with running(box):
        await box.publish(5, first=6)

        async def alarmed() -> bool:
            return uuids["before"] in await box.alarm()

        await until("an alarm that names the database", alarmed)
        assert (await box.health())["status"] == "degraded"
        assert await box.waiting() >= 5
    assert (await odoo.state())["requests"]["webhook"] == posted, "something was sent to a copy"
    await sim(odoo, "PUT", "database", {"uuid": uuids["before"]})
    async with running(box):
        await all_arrived_once(odoo, box.published)


async def test_a_copy_that_takes_odoos_place_while_the_appliance_runs_stores_nothing(
    box: Box, odoo: OdooStandIn
) -> None:
    async with running(box):
        await box.publish(5, first=1)
        await all_arrived_once(odoo, box.published)
        await sim(odoo, "PUT", "database", {})
        before = await arrived(odoo)
        await box.publish(5, first=6)

        async def alarmed() -> bool:
            return "bound to" in await box.alarm()

        await until("an alarm", alarmed)
        assert await arrived(odoo) == before


async def test_an_odoo_put_back_to_a_backup_gets_its_readings_again_exactly_once(box: Box, odoo: OdooStandIn) -> None:
    async with running(box):
        await box.publish(20, first=1)
        await all_arrived_once(odoo, box.published)
        await sim(odoo, "PUT", "snapshots/night")
        await box.publish(20, first=21)
        await all_arrived_once(odoo, box.published)
        await sim(odoo, "POST", "snapshots/night/restore")
        assert len(await arrived(odoo)) == 20
        await box.publish(1, first=41)
        await all_arrived_once(odoo, box.published)

        async def told() -> bool:
            return "odoo_knows_less" in await events(odoo)

        await until("a message about it", told)


async def test_a_restore_that_the_highest_number_does_not_show_is_found_by_the_count(
    box: Box, odoo: OdooStandIn
) -> None:
    late, early = box.paired[0].device_id, 1
    async with running(box):
        await sim(odoo, "POST", "faults", {"kind": "retry", "device": late})
        await box.publish(20, first=1)
        await box.publish(5, first=1, device=early)

        async def overtaken() -> bool:
            return len(await arrived(odoo)) == 5

        await until("the later readings in Odoo, the earlier ones waiting", overtaken)
        await sim(odoo, "PUT", "snapshots/night")
        await sim(odoo, "DELETE", "faults")
        await all_arrived_once(odoo, box.published)

        async def settled() -> bool:
            return await box.waiting() == 0

        await until("the appliance knows that", settled)
        # or a sync may find it out before it is looked at
        await sim(odoo, "POST", "faults", {"kind": "unavailable"})
        await sim(odoo, "POST", "snapshots/night/restore")
        assert len(await arrived(odoo)) == 5
        await sim(odoo, "DELETE", "faults")
        await box.publish(1, first=6, device=early)
        await all_arrived_once(odoo, box.published)


async def test_a_box_put_back_to_a_backup_takes_a_new_epoch_and_loses_nothing_as_a_repeat(
    box: Box, odoo: OdooStandIn, tmp_path: Path
) -> None:
    async with running(box):
        await box.publish(10, first=1)
        await all_arrived_once(odoo, box.published)
        await sim(odoo, "POST", "faults", {"kind": "unavailable"})
        await box.publish(10, first=11)
    backup = box.copy_to(tmp_path / "backup")
    await sim(odoo, "DELETE", "faults")
    async with running(box):
        # what waited when the backup was made, and more
        await box.publish(10, first=21)
        await all_arrived_once(odoo, box.published)
    before = (await gateway(odoo))["epoch"]
    async with running(backup):
        await backup.publish(15, first=31)
        await all_arrived_once(odoo, box.published, backup.published)

        async def drained() -> bool:
            return await backup.waiting() == 0

        await until("nothing waits", drained)
    now = await gateway(odoo)
    assert now["epoch"] != before
    assert {epoch["epoch"]: epoch["retired"] for epoch in now["epochs"]} == {before: True, now["epoch"]: False}
    assert "new_epoch" in await events(odoo)


async def everything_is_somewhere(odoo: OdooStandIn, fenced: Box, active: Box) -> None:
    """All of the active copy's readings are in Odoo once, and those of the other in Odoo once or on its disk."""
    there = await arrived(odoo)
    assert active.published <= there.keys()
    assert set(there.values()) == {1}
    assert len(fenced.published - there.keys()) <= await fenced.waiting()


async def test_of_two_copies_one_is_fenced_keeps_everything_and_may_take_over_once_it_is_enrolled(
    box: Box, odoo: OdooStandIn, tmp_path: Path
) -> None:
    async with running(box):
        await box.publish(10, first=1)
        await all_arrived_once(odoo, box.published)
        await sim(odoo, "POST", "faults", {"kind": "unavailable"})
        await box.publish(5, first=11)
    twin = box.copy_to(tmp_path / "twin")
    await sim(odoo, "DELETE", "faults")
    async with running(box, twin):

        async def one_is_fenced() -> bool:
            await twin.publish(1, first=1001 + len(twin.published))
            await box.publish(1, first=101 + len(box.published))
            return "another copy" in await box.alarm() + await twin.alarm()

        await until("one of them is fenced", one_is_fenced)
        fenced, active = (box, twin) if "another copy" in await box.alarm() else (twin, box)
        await fenced.publish(5, first=2001)
        await active.publish(5, first=3001)

        async def drained() -> bool:
            return await active.waiting() == 0

        await until("the active copy has sent everything", drained)
        await everything_is_somewhere(odoo, fenced, active)
        assert await fenced.waiting() >= 5
        await fenced.appliance.stop()
        await enrol(fenced, odoo)
        await fenced.appliance.start()
        await until("it takes over", lambda: is_empty(fenced))
        await active.publish(5, first=4001)

        async def other_is_fenced() -> bool:
            return "another copy" in await active.alarm()

        await until("the other one is fenced now", other_is_fenced)
        await everything_is_somewhere(odoo, active, fenced)


async def is_empty(box: Box) -> bool:
    return await box.waiting() == 0


async def enrol(box: Box, odoo: OdooStandIn) -> None:
    """As ``iiot-appliance enroll`` does it."""
    code = (await sim(odoo, "POST", "codes"))["code"]
    settings = Settings(iiot_data_dir=box.data, odoo_base_url="", odoo_api_key=None)
    await enroll(settings, odoo_url=odoo.url, code=code)


async def test_two_copies_of_which_neither_has_sent_anything_are_told_apart(
    box: Box, odoo: OdooStandIn, tmp_path: Path
) -> None:
    """The first to be heard of goes on under the old names, so the other must take new ones for all that followed."""
    async with running(box):
        await box.publish(5, first=1)
        await all_arrived_once(odoo, box.published)
    twin = box.copy_to(tmp_path / "twin")
    await sim(odoo, "POST", "faults", {"kind": "unavailable"})
    async with running(box, twin):
        await box.publish(7, first=101)
        await twin.publish(9, first=1001)
        await sim(odoo, "DELETE", "faults")

        async def decided() -> bool:
            alarms = await box.alarm() + await twin.alarm()
            return "another copy" in alarms and 0 in (await box.waiting(), await twin.waiting())

        await until("one is fenced and the other has sent everything", decided)
        fenced, active = (box, twin) if "another copy" in await box.alarm() else (twin, box)
        await everything_is_somewhere(odoo, fenced, active)
