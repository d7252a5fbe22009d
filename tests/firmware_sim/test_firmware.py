"""A device that updates itself, against a small file server: every state, every way it can end, and a failure of power
at every step."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from firmware_sim.bootloader import TRIAL_BOOTS, Bootloader, Image, SlotError
from firmware_sim.firmware import Firmware
from firmware_sim.flash import Flash
from firmware_sim.habits import Habits, Patience
from firmware_sim.image import Flaw, Header, make, read_header
from firmware_sim.update_memory import MOST_ENDED, MOST_REPORTS, Report, UpdateMemory
from tests.firmware_sim.file_server import FileServer, file_server

NEW = make("2.0.0", 200_000)
QUICK = Habits(boot_s=0, confirm_within_s=0.2, flush_s=0.05, patience=Patience(longest_pause_s=0.02, give_up_s=0.2))
PATIENT = Habits(boot_s=0, confirm_within_s=10, flush_s=0.05, patience=Patience(longest_pause_s=0.02, give_up_s=10))
STEPS = ["accepted", "downloading", "downloaded", "verified", "installing", "rebooting", "installed"]


class KilledError(Exception):
    """The power has failed."""


class Box:
    """A device's firmware with its flash, and whoever listens to its reports."""

    def __init__(self, folder: Path | None, *, habits: Habits = PATIENT) -> None:
        self.folder = folder
        self.habits = habits
        self.said: list[dict[str, Any]] = []
        """Since the beginning, over all restarts."""
        self.acknowledges = True
        self.reachable = True
        self.steps: list[str] = []
        self.kill_at: int | None = None
        self.cuts = 0
        self.changed = asyncio.Event()
        self.firmware: Firmware

    @asynccontextmanager
    async def on(self) -> AsyncIterator[Firmware]:
        """From power on to power off; :class:`KilledError` when it failed before."""
        self.steps.clear()
        # what fails in a constructor fails there and then
        self.firmware = firmware = Firmware(
            flash=Flash(self.folder),
            factory_version="1.0.0",
            random=Random(1),
            say=self._say,
            cut=self._cut,
            ca_pem=lambda: None,
            habits=self.habits,
            step=self._step,
        )
        tasks = {
            asyncio.create_task(firmware.run(), name="firmware under test"),
            asyncio.create_task(self._connect(firmware), name="its connection"),
        }
        try:
            for report in firmware.unsent:
                self._say(report)
            yield firmware
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            if self.folder is None:
                firmware.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _connect(self, firmware: Firmware) -> None:
        while True:
            await firmware.running.wait()
            firmware.online(self.reachable)
            await asyncio.sleep(0.005)

    def _cut(self) -> None:
        self.cuts += 1

    def _say(self, report: Report) -> None:
        self.said.append(report.status.model_dump(exclude_none=True))
        self.changed.set()
        if self.acknowledges:
            self.firmware.settled(report.number)

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.kill_at is not None and len(self.steps) == self.kill_at:
            self.changed.set()
            raise KilledError(name)

    @property
    def states(self) -> list[str]:
        """As they were said, without repeats in a row."""
        states = [status["state"] for status in self.said]
        return [state for index, state in enumerate(states) if index == 0 or states[index - 1] != state]

    async def until(self, state: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while not self.said or self.said[-1]["state"] != state:
                self.changed.clear()
                await self.changed.wait()
                if self.kill_at is not None and len(self.steps) >= self.kill_at:
                    raise KilledError
        return self.said[-1]


def offer(server: FileServer, content: bytes = NEW, *, update_id: str = "u-1", **changed: Any) -> bytes:
    params = {
        "version": "2.0.0",
        "url": server.url,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return json.dumps({"action": "start_update", "update_id": update_id, "params": params | changed}).encode()


def order(action: str, update_id: str = "u-1") -> bytes:
    return json.dumps({"action": action, "update_id": update_id, "params": {}}).encode()


# --- an update, from the offer to its end ---------------------------------------------------------------------


async def test_every_state_is_reported_and_the_new_version_runs(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(offer(server))
        last = await box.until("installed")
    assert box.states == STEPS
    assert last == {"update_id": "u-1", "state": "installed", "version": "2.0.0"}
    progress = [status["progress"] for status in box.said if status["state"] == "downloading"]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert len(progress) <= 11
    assert {status["update_id"] for status in box.said} == {"u-1"}
    assert box.cuts == 1
    assert firmware.version == "2.0.0"
    async with box.on() as again:
        assert again.version == "2.0.0"


async def test_a_device_without_a_folder_keeps_its_firmware_as_long_as_it_runs() -> None:
    box = Box(None)
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(offer(server))
        await box.until("installed")
        folder = firmware._flash._folder
        assert folder is not None
        assert folder.exists()
    assert not folder.exists()


async def test_the_same_offer_again_repeats_the_last_report_and_changes_nothing(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server:
        server.stall_at = 100_000
        async with box.on() as firmware:
            firmware.offered(offer(server))
            await server.stalled.wait()
            firmware.offered(offer(server))
            assert box.said[-1]["state"] == "downloading"
            server.go_on.set()
            await box.until("installed")
            said = len(box.said)
            firmware.offered(offer(server))
            assert [status["state"] for status in box.said[said:]] == ["installed"]
        async with box.on() as firmware:
            firmware.offered(offer(server))
            assert box.said[-1]["state"] == "installed"
        assert server.ranges == [0]


async def test_a_version_that_runs_already_is_not_fetched(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(offer(server, version="1.0.0"))
        assert box.said == [{"update_id": "u-1", "state": "already_installed", "version": "1.0.0"}]
        firmware.offered(offer(server, update_id="u-2"))
        await box.until("installed")
        firmware.offered(offer(server, update_id="u-3", version="another name of the same file"))
        assert box.said[-1]["state"] == "already_installed"
        assert server.ranges == [0]


@pytest.mark.parametrize("content", [NEW[:-1] + b"?", NEW[:1000]], ids=["another byte", "another size"])
async def test_a_file_with_another_hash_is_not_installed(tmp_path: Path, content: bytes) -> None:
    box = Box(tmp_path)
    async with file_server(content) as server, box.on() as firmware:
        firmware.offered(offer(server, NEW, size=len(content)))
        last = await box.until("failed")
        assert "SHA-256" in last["error"]
        assert "verified" not in box.states
        assert (firmware.version, box.cuts) == ("1.0.0", 0)
        assert not (tmp_path / "download.part").exists()


async def test_a_link_that_leads_nowhere_fails_the_update(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        server.statuses = [(410, "")]
        firmware.offered(offer(server))
        assert "410" in (await box.until("failed"))["error"]


@pytest.mark.parametrize(
    "changed", [{"sha256": None}, {"size": "many"}, {"size": 0}, {"url": 7}, {"version": None}], ids=str
)
async def test_an_offer_that_cannot_be_used_fails_and_says_what_is_wrong(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(offer(server, **changed))
        assert box.said[-1]["state"] == "failed"
        assert next(iter(changed)) in box.said[-1]["error"]


async def test_what_is_no_offer_is_passed_over(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with box.on() as firmware:
        for payload in (b"", b"{", b"[]", b'{"action": "dance", "update_id": "u"}', order("start_update", "")):
            firmware.offered(payload)
    assert box.said == []


async def test_a_second_update_while_one_is_under_way_fails(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        server.stall_at = 100_000
        firmware.offered(offer(server))
        await server.stalled.wait()
        firmware.offered(offer(server, update_id="u-2"))
        assert (box.said[-1]["update_id"], box.said[-1]["state"]) == ("u-2", "failed")
        server.go_on.set()
        assert (await box.until("installed"))["update_id"] == "u-1"


# --- firmware that does not work -----------------------------------------------------------------------------


@pytest.mark.parametrize("flaw", ["boot", "connect"])
async def test_bad_firmware_rolls_back_by_itself(tmp_path: Path, flaw: Flaw) -> None:
    bad = make("2.0.0", 50_000, bad=flaw)
    box = Box(tmp_path, habits=QUICK)
    async with file_server(bad) as server, box.on() as firmware:
        firmware.offered(offer(server, bad))
        last = await box.until("rolled_back")
        assert box.states == [*STEPS[:-1], "rolled_back"]
        assert last["version"] == firmware.version == "1.0.0"
        assert "prove" in last["error"]
        assert firmware.running.is_set()


async def test_firmware_that_cannot_reach_the_appliance_in_time_rolls_back(tmp_path: Path) -> None:
    box = Box(tmp_path, habits=QUICK)
    async with file_server(NEW) as server, box.on() as firmware:
        box.reachable = False
        firmware.offered(offer(server))
        await box.until("rolled_back")
        assert firmware.version == "1.0.0"


async def test_after_bad_firmware_a_good_one_is_installed(tmp_path: Path) -> None:
    bad = make("2.0.0", 50_000, bad="boot")
    box = Box(tmp_path, habits=QUICK)
    async with file_server(bad) as server, box.on() as firmware:
        firmware.offered(offer(server, bad))
        await box.until("rolled_back")
        server.content = NEW
        box.habits = PATIENT
        firmware.offered(offer(server, update_id="u-2"))
        await box.until("installed")


# --- cancel and roll back ------------------------------------------------------------------------------------


async def test_a_download_is_cancelled_and_nothing_of_it_stays(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        server.stall_at = 100_000
        firmware.offered(offer(server))
        await server.stalled.wait()
        firmware.offered(order("cancel_update"))
        assert box.said[-1]["state"] == "cancelled"
        assert not (tmp_path / "download.part").exists()
        firmware.offered(offer(server))
        assert box.said[-1]["state"] == "cancelled", "a cancelled update began again"
        server.stall_at = None
        server.go_on.set()
        firmware.offered(offer(server, update_id="u-2"))
        await box.until("installed")


async def test_a_cancel_that_overtakes_its_offer_wins(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(order("cancel_update"))
        firmware.offered(offer(server))
        assert box.states == ["cancelled"]
        assert server.ranges == []


async def test_what_is_being_installed_is_not_cancelled_and_reported_as_it_ends(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(offer(server))
        await box.until("rebooting")
        firmware.offered(order("cancel_update"))
        assert box.said[-1]["state"] == "rebooting"
        await box.until("installed")
        firmware.offered(order("cancel_update"))
        assert box.said[-1]["state"] == "installed"


async def test_a_rollback_leads_to_the_firmware_before_and_back_again(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(offer(server))
        await box.until("installed")
        firmware.offered(order("rollback", "r-1"))
        last = await box.until("rolled_back")
        assert last == {"update_id": "r-1", "state": "rolled_back", "version": "1.0.0"}
        assert firmware.version == "1.0.0"
        firmware.offered(order("rollback", "r-1"))
        assert firmware.version == "1.0.0", "a repeated rollback was carried out twice"
        firmware.offered(order("rollback", "r-2"))
        await box.until("accepted")
        assert (await box.until("rolled_back"))["version"] == "2.0.0"
        server.ranges.clear()
    async with box.on() as firmware:
        assert firmware.version == "2.0.0"


async def test_without_an_earlier_firmware_a_rollback_fails(tmp_path: Path) -> None:
    box = Box(tmp_path)
    async with box.on() as firmware:
        firmware.offered(order("rollback"))
        assert "no firmware" in (await box.until("failed"))["error"]


async def test_a_rollback_never_leads_to_firmware_that_did_not_work(tmp_path: Path) -> None:
    bad = make("2.0.0", 50_000, bad="boot")
    box = Box(tmp_path, habits=QUICK)
    async with file_server(bad) as server, box.on() as firmware:
        firmware.offered(offer(server, bad))
        await box.until("rolled_back")
        firmware.offered(order("rollback", "r-1"))
        await box.until("failed")
        assert firmware.version == "1.0.0"


# --- reports --------------------------------------------------------------------------------------------------


async def test_reports_that_were_not_acknowledged_are_said_again_after_a_restart_in_order(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.acknowledges = False
    async with file_server(NEW) as server, box.on() as firmware:
        firmware.offered(offer(server))
        await box.until("installed")
    before, box.said, box.acknowledges = box.said, [], True
    async with box.on():
        assert box.said == before
    box.said = []
    async with box.on():
        assert box.said == []


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    memory = UpdateMemory(Flash(tmp_path))
    status = Report.model_validate({"number": 1, "status": {"update_id": "u", "state": "failed"}}).status
    for number in range(MOST_REPORTS + 50):
        memory.end(status.model_copy(update={"update_id": f"u-{number}"}))
    again = UpdateMemory(Flash(tmp_path))
    assert len(again.unsent) == MOST_REPORTS
    assert again.unsent[-1].status.update_id == f"u-{MOST_REPORTS + 49}"
    assert sum(again.ended(f"u-{number}") is not None for number in range(MOST_REPORTS + 50)) == MOST_ENDED


# --- a failure of power at every step ------------------------------------------------------------------------


async def play(box: Box, act: Callable[[Firmware], None], end: str) -> None:
    with suppress(KilledError):
        async with box.on() as firmware:
            act(firmware)
            await box.until(end)
            # and now for steps that come after the last report
            await asyncio.sleep(0.01)


async def steps_of(folder: Path, act: Callable[[Firmware], None], end: str) -> list[str]:
    box = Box(folder)
    await play(box, act, end)
    assert box.said[-1]["state"] == end
    return list(box.steps)


async def test_an_update_survives_a_failure_of_power_at_every_step(tmp_path: Path) -> None:
    async with file_server(NEW) as server:

        def act(firmware: Firmware) -> None:
            firmware.offered(offer(server))  # the appliance offers again what was not acknowledged

        steps = await steps_of(tmp_path / "whole", act, "installed")
        assert {"accepted", "downloading", "moved", "installing", "rebooting", "saved", "installed"} <= set(steps)
        assert len(steps) > 30
        for kill_at in range(1, len(steps) + 1):
            box = Box(tmp_path / str(kill_at))
            box.kill_at = kill_at
            await play(box, act, "installed")
            assert len(box.steps) == kill_at, steps[kill_at - 1]
            box.kill_at = None
            await play(box, act, "installed")
            assert box.said[-1] == {"update_id": "u-1", "state": "installed", "version": "2.0.0"}, steps[kill_at - 1]
            assert "failed" not in box.states, steps[kill_at - 1]
            assert box.firmware.version == "2.0.0"


async def test_two_failures_of_power_in_a_row_are_survived_too(tmp_path: Path) -> None:
    async with file_server(NEW) as server:

        def act(firmware: Firmware) -> None:
            firmware.offered(offer(server))

        count = len(await steps_of(tmp_path / "whole", act, "installed"))
        random = Random(5)
        for number in range(40):
            box = Box(tmp_path / str(number))
            for _ in range(2):
                box.kill_at = random.randint(1, count)
                await play(box, act, "installed")
            box.kill_at = None
            await play(box, act, "installed")
            assert box.said[-1]["state"] == "installed"
            assert box.firmware.version == "2.0.0"


async def test_bad_firmware_rolls_back_whenever_the_power_fails(tmp_path: Path) -> None:
    bad = make("2.0.0", 50_000, bad="boot")
    async with file_server(bad) as server:

        def act(firmware: Firmware) -> None:
            firmware.offered(offer(server, bad))

        for kill_at in range(1, len(await steps_of(tmp_path / "whole", act, "rolled_back")) + 1):
            box = Box(tmp_path / str(kill_at))
            box.kill_at = kill_at
            await play(box, act, "rolled_back")
            box.kill_at = None
            await play(box, act, "rolled_back")
            assert box.said[-1]["state"] == "rolled_back"
            assert box.firmware.version == "1.0.0"


async def test_a_rollback_survives_a_failure_of_power_at_every_step(tmp_path: Path) -> None:
    async with file_server(NEW) as server:
        await steps_of(tmp_path / "updated", lambda firmware: firmware.offered(offer(server)), "installed")

        def act(firmware: Firmware) -> None:
            firmware.offered(order("rollback", "r-1"))

        shutil.copytree(tmp_path / "updated", tmp_path / "whole")
        for kill_at in range(1, len(await steps_of(tmp_path / "whole", act, "rolled_back")) + 1):
            shutil.copytree(tmp_path / "updated", tmp_path / str(kill_at))
            box = Box(tmp_path / str(kill_at))
            box.kill_at = kill_at
            await play(box, act, "rolled_back")
            box.kill_at = None
            await play(box, act, "rolled_back")
            assert box.said[-1] == {"update_id": "r-1", "state": "rolled_back", "version": "1.0.0"}


# --- bootloader and images -----------------------------------------------------------------------------------


def loaded(folder: Path, content: bytes = NEW) -> Bootloader:
    """With a new image in the other slot, to be tried at the next boot."""
    bootloader = Bootloader(Flash(folder), factory_version="1.0.0")
    bootloader.boot()
    (folder / "part").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    bootloader.install(folder / "part", Image(version="2.0.0", size=len(content), sha256=sha256))
    bootloader.try_other()
    return bootloader


def test_an_image_that_is_never_confirmed_gets_its_boots_and_then_the_old_one_runs(tmp_path: Path) -> None:
    loaded(tmp_path)
    versions = []
    for _ in range(TRIAL_BOOTS + 2):
        bootloader = Bootloader(Flash(tmp_path), factory_version="1.0.0")
        bootloader.boot()
        versions.append(bootloader.image.version)
    assert versions == ["2.0.0"] * TRIAL_BOOTS + ["1.0.0"] * 2


def test_an_image_that_rots_in_its_slot_is_not_booted(tmp_path: Path) -> None:
    bootloader = loaded(tmp_path)
    (tmp_path / "slot-b.bin").write_bytes(NEW[:-1] + b"?")
    bootloader.boot()
    assert bootloader.image.version == "1.0.0"


def test_while_an_image_is_on_trial_the_slot_to_fall_back_to_is_safe(tmp_path: Path) -> None:
    bootloader = loaded(tmp_path)
    bootloader.boot()
    with pytest.raises(SlotError):
        bootloader.install(tmp_path / "part", Image(version="3.0.0", size=1, sha256="0" * 64))
    bootloader.abandon()
    bootloader.boot()
    assert bootloader.image.version == "1.0.0"


def test_a_slot_that_does_not_hold_what_was_downloaded_is_not_tried(tmp_path: Path) -> None:
    bootloader = Bootloader(Flash(tmp_path), factory_version="1.0.0")
    bootloader.boot()
    (tmp_path / "part").write_bytes(NEW)
    with pytest.raises(SlotError):
        bootloader.install(tmp_path / "part", Image(version="2.0.0", size=1, sha256="0" * 64))
    with pytest.raises(SlotError):
        bootloader.try_other()


def test_a_torn_boot_record_means_the_factorys_firmware(tmp_path: Path) -> None:
    for content in ("", "{", '{"active": "c"}', '{"active": "b"}', "[]"):
        (tmp_path / "boot.json").write_text(content)
        bootloader = Bootloader(Flash(tmp_path), factory_version="1.0.0")
        bootloader.boot()
        assert bootloader.image.version == "1.0.0"


def test_an_image_says_what_it_is_and_any_other_file_is_one_without_flaws(tmp_path: Path) -> None:
    path = tmp_path / "image"
    for content, header in (
        (make("2.0.0", 1000), Header("2.0.0", None)),
        (make("2.0.0", 10, bad="connect"), Header("2.0.0", "connect")),
        (b"\x7fELF", Header()),
        (b"", Header()),
        (b"IIOT-FIRMWARE {", Header()),
        (b"IIOT-FIRMWARE []\n", Header()),
        (b'IIOT-FIRMWARE {"version": 7, "bad": "smell"}\n', Header()),
    ):
        path.write_bytes(content)
        assert read_header(path) == header
    assert len(make("2.0.0", 1000)) == 1000
    assert make("2.0.0", 1000, seed=1) != make("2.0.0", 1000, seed=2)
