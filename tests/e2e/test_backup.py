"""A box that is lost and comes back from its backup, with the commands that people type."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from appliance.cli import Exit
from tests.e2e.harness import OdooStandIn
from tests.e2e.test_cli import Result, command
from tests.e2e.test_copies import Box, all_arrived_once, arrived, gateway, is_empty, odoo, running, sim, until

__all__ = ["odoo"]


async def on(box: Box, *arguments: str, **settings: str) -> Result:
    """A command with the settings of this box."""
    given = {"IIOT_DATA_DIR": str(box.data), "MQTT_CLIENT_ID": "line-1", **box.odoo.settings, **settings}
    return await command(*arguments, folder=box.data.parent, settings=given)


@pytest.fixture
async def box(tmp_path: Path, odoo: OdooStandIn) -> Box:
    one = Box(tmp_path / "box", odoo)
    await one.pair()
    return one


async def test_a_lost_box_goes_on_from_its_backup_and_nothing_is_in_odoo_twice(
    box: Box, odoo: OdooStandIn, tmp_path: Path
) -> None:
    """Twenty readings are in the backup, ten of them on their way; then thirty more, and the box is gone."""
    backups = tmp_path / "backups"
    async with running(box):
        await box.publish(10, first=1)
        await all_arrived_once(odoo, box.published)
        await sim(odoo, "POST", "faults", {"kind": "unavailable"})
        await box.publish(10, first=11)
        made = await on(box, "backup", "--output-dir", str(backups), "--keep", "7", "--json")
        assert (made.status, made.json["encrypted"], made.json["database"]) == (Exit.OK, False, "ok")
        await sim(odoo, "DELETE", "faults")
        await box.publish(30, first=21)
        await all_arrived_once(odoo, box.published)
    assert len(await arrived(odoo)) == 50

    new = Box(tmp_path / "new", odoo)
    new.paired = box.paired
    put_back = await on(new, "restore", made.json["file"], "--json")
    assert put_back.json["gateway"] == "line-1"
    assert "ODOO_API_KEY" in await asyncio.to_thread(Path(put_back.json["settings"]).read_text)
    async with running(new):
        # the same devices, with the secrets that they have
        await new.publish(20, first=1001)
        await all_arrived_once(odoo, box.published, new.published)
        await until("nothing waits", lambda: is_empty(new))
        async with running(box):
            await box.publish(5, first=2001)

            async def fenced() -> bool:
                return "another copy" in await box.alarm()

            await until("the box that was lost is fenced when it comes back", fenced)
            assert await box.waiting() >= 5
        await new.publish(5, first=1021)
        there = await arrived(odoo)
        assert set(there.values()) == {1}
    assert len((await gateway(odoo))["epochs"]) == 2


async def test_a_backup_is_encrypted_with_the_passphrase_of_a_file_or_the_settings_and_never_shows_it(
    box: Box, tmp_path: Path
) -> None:
    async with running(box):
        await box.publish(3, first=1)
        passphrase = tmp_path / "passphrase"
        passphrase.write_text("correct horse battery\n")
        first, second = tmp_path / "first.sealed", tmp_path / "second.sealed"
        made = await on(box, "backup", "--output", str(first), "--passphrase-file", str(passphrase), "--json")
        assert made.json["encrypted"] is True
        made = await on(box, "backup", "--output", str(second), IIOT_BACKUP_PASSPHRASE="correct horse battery")
        assert (made.status, "caution" in made.err) == (Exit.OK, False)
    for path in (first, second):
        content = path.read_bytes()
        assert b"SQLite" not in content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    new = Box(tmp_path / "new", box.odoo)
    refused = await on(new, "restore", str(first))
    assert (refused.status, "--passphrase-file" in refused.err) == (Exit.SETTINGS, True)
    refused = await on(new, "restore", str(first), IIOT_BACKUP_PASSPHRASE="battery staple")
    assert (refused.status, "passphrase is wrong" in refused.err) == (Exit.DATA_FOLDER, True)
    assert (await on(new, "restore", str(first), "--passphrase-file", str(passphrase))).status == Exit.OK
    refused = await on(new, "restore", str(second), "--passphrase-file", str(passphrase))
    assert (refused.status, "--force" in refused.err) == (Exit.DATA_FOLDER, True)
    forced = await on(new, "restore", str(second), "--force", "--passphrase-file", str(passphrase))
    assert "before-restore-" in forced.out


async def test_a_backup_is_refused_without_a_place_and_a_restore_while_an_appliance_runs(
    box: Box, tmp_path: Path
) -> None:
    assert (await on(box, "backup")).status == Exit.SETTINGS
    assert (await on(box, "backup", "--output", "x", "--keep", "3")).status == Exit.SETTINGS
    nothing = await on(Box(tmp_path / "nothing", box.odoo), "backup", "--output", str(tmp_path / "x"))
    assert (nothing.status, "ever started" in nothing.err) == (Exit.FAILED, True)
    async with running(box):
        made = tmp_path / "one.tar.gz"
        assert (await on(box, "backup", "--output", str(made))).status == Exit.OK
        refused = await on(box, "restore", str(made), "--force")
        assert (refused.status, "stop it first" in refused.err) == (Exit.DATA_FOLDER, True)
        health = await box.health()
        assert health["status"] == "ok", json.dumps(health)
        await box.publish(3, first=1)
