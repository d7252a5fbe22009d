"""A staging copy of Odoo gets nothing, and an Odoo that was restored from a backup gets all of it again."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.odoo.cache import held, lock_file
from tests.odoo.cluster import Cluster, programs
from tests.odoo.databases import ADDONS, data_folder, drop, run_odoo
from tests.odoo.plant import EnrolledAppliance, Plant, eventually, new_plant
from tests.odoo.releases import Odoo

pytestmark = pytest.mark.xdist_group("odoo-copies")
READINGS_PER_S = 100.0


@pytest.fixture(scope="module")
def plant(odoo: Odoo, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with new_plant(odoo, cluster, tmp_path_factory.mktemp("copies")) as plant:
        yield plant


@pytest.fixture(scope="module")
def box(plant: Plant) -> EnrolledAppliance:
    return asyncio.run(plant.appliance("hall-1"))


def duplicate(plant: Plant, target: str, log: Path, *, neutralize: bool) -> None:
    """A copy of the database as Odoo's database manager makes it."""
    options = [
        *("--db_host=127.0.0.1", f"--db_port={plant.cluster.port}", "--db_user=odoo"),
        f"--data-dir={data_folder(plant.odoo)}",
    ]
    command = plant.odoo.command(*options, addons=ADDONS)
    command[command.index("server")] = "shell"
    text = (
        "from odoo.service.db import exp_duplicate_database as duplicate\n"
        f"duplicate({plant.database!r}, {target!r}, neutralize_database={neutralize})\n"
    )
    assert run_odoo(plant.odoo, command, log, text=text) == 0, log.read_text()


async def reasons(box: EnrolledAppliance) -> str:
    return "; ".join((await box.get("/health"))["reasons"])


async def asked_again(box: EnrolledAppliance) -> None:
    """What was refused is tried once a minute; who does not want to wait for it starts the appliance anew."""
    await box.stop()
    await box.start()


@pytest.mark.parametrize(
    ("neutralize", "why"), [(True, "401"), (False, "which this appliance is bound to")], ids=["neutralized", "as it is"]
)
async def test_a_staging_copy_at_the_same_address_is_sent_nothing_and_both_sides_say_why(
    plant: Plant, box: EnrolledAppliance, tmp_path: Path, neutralize: bool, why: str
) -> None:
    copy = f"{plant.database}_{secrets.token_hex(3)}"
    original = plant.server.database
    # nobody who clears away what others left behind must take it
    with held(copy):
        await refused_by(plant, box, tmp_path, copy, original, neutralize=neutralize, why=why)
    lock_file(copy).unlink()


async def refused_by(
    plant: Plant, box: EnrolledAppliance, folder: Path, copy: str, original: str, *, neutralize: bool, why: str
) -> None:
    async with plant.devices(box, await plant.labels(f"copied-{why[:3]}", 3), rate=READINGS_PER_S) as devices:
        await eventually(lambda: box.get("/api/v1/ledger"), lambda ledger: ledger["total"]["stored"] > 0)
        await plant.kill()
        try:
            await asyncio.to_thread(duplicate, plant, copy, folder / "duplicate.log", neutralize=neutralize)
            in_copy = plant.cluster.sql("SELECT count(*) FROM iiot_telemetry", copy)
            plant.serve(copy)
            await plant.start()
            assert await eventually(lambda: reasons(box), lambda text: why in text), "the appliance says why"
            # commands that were made in the copy go nowhere
            async with plant.office() as office:
                (gateway,) = await office.find("iiot.gateway", [], "is_copy", "is_enabled")
                assert gateway["is_copy"], "Odoo says why"
                assert gateway["is_enabled"] is not neutralize
                (device,) = await office.find("iiot.device", [("device_id", "like", "copied-")], "id", limit=1)
                command = await office.send_command(device["id"], "identify", {})
            waiting = (await box.get("/api/v1/buffer"))["waiting"]
            await eventually(lambda: box.get("/api/v1/buffer"), lambda buffer: buffer["waiting"] > waiting + 100)
            assert plant.cluster.sql("SELECT count(*) FROM iiot_telemetry", copy) == in_copy
            state = plant.cluster.sql(f"SELECT state, problem FROM iiot_command WHERE id = {command}", copy)
            assert state[0][0] in ("queued", "failed")
        finally:
            await plant.kill()
            plant.serve(original)
            await asyncio.to_thread(drop, plant.odoo, plant.cluster, copy)
        await plant.start()
        await asked_again(box)
    await plant.drained(box)
    record = devices.record()
    await plant.check_counts(box, record)
    assert not record.commands, "a copy of Odoo has moved a machine"


def back_up(plant: Plant, file: Path) -> None:
    """``pg_dump``, while Odoo works."""
    run_program(plant, "pg_dump", "-Fc", "-Z1", "-f", str(file), plant.database)


def restore(plant: Plant, file: Path) -> None:
    """The database as it was in the backup; nobody may use it meanwhile."""
    plant.cluster.sql(f'DROP DATABASE "{plant.database}" WITH (FORCE)')
    plant.cluster.sql(f'CREATE DATABASE "{plant.database}" TEMPLATE template0')
    run_program(plant, "pg_restore", "--no-owner", "-d", plant.database, str(file))


def run_program(plant: Plant, name: str, *arguments: str) -> None:
    place = ["-h", "127.0.0.1", "-p", str(plant.cluster.port), "-U", "odoo"]
    subprocess.run([str(programs() / name), *place, *arguments], check=True, timeout=300)


async def test_an_odoo_restored_from_a_backup_gets_again_what_it_has_forgotten(
    plant: Plant, box: EnrolledAppliance, tmp_path: Path
) -> None:
    async with plant.devices(box, await plant.labels("restored", 3), rate=READINGS_PER_S) as devices:

        async def stored() -> int:
            return sum(count for (device, _), count in plant.stored().items() if device.startswith("restored-"))

        await eventually(stored, lambda count: count > 100)
        before = await stored()
        await asyncio.to_thread(back_up, plant, tmp_path / "odoo.dump")
        after = await stored()
        await eventually(stored, lambda count: count > after + 200)
        await plant.kill()
        had = await stored()
        await asyncio.to_thread(restore, plant, tmp_path / "odoo.dump")
        assert before <= await stored() < had - 100
        await plant.start()
    await plant.drained(box)
    await eventually(stored, lambda count: count >= len(devices.record().acknowledged))
    await plant.check_counts(box, devices.record(), at_least=300)
    assert "it was restored from a backup" in box.log
