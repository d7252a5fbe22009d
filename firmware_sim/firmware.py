"""How a device updates itself: takes an offer, downloads, verifies, installs, restarts, and tells every step.

What was reported is on the device's disk before it is said, so that an update goes on where it was when the power comes
back. A new image is confirmed once the device has reached the appliance with it; else the bootloader goes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import Random

from pydantic import ValidationError

from appliance.contract.device import OtaState, OtaStatus
from firmware_sim.bootloader import Bootloader, Image, SlotError
from firmware_sim.download import Download, DownloadError
from firmware_sim.flash import Flash
from firmware_sim.habits import Habits
from firmware_sim.image import checksum
from firmware_sim.update_memory import Offer, OfferedFile, Report, Update, UpdateMemory

PART = "download.part"
PROGRESS_STEP = 10
"""Percent between two reports of a download."""
BEFORE_INSTALLING: frozenset[OtaState] = frozenset(("accepted", "downloading", "downloaded", "verified"))


class Firmware:
    """What runs on a device, and the update under way. ``run`` is its task.

    ``say`` hands over a report, to be given back to :meth:`settled` when it was acknowledged; ``cut`` ends the
    connection for a restart; ``ca_pem`` is the authority that downloads are checked with; ``step`` is for tests.
    """

    def __init__(
        self,
        *,
        flash: Flash,
        factory_version: str,
        random: Random,
        say: Callable[[Report], None],
        cut: Callable[[], None],
        ca_pem: Callable[[], str | None],
        habits: Habits | None = None,
        step: Callable[[str], None] = lambda name: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._flash = flash
        self._random = random
        self._say = say
        self._cut = cut
        self._ca_pem = ca_pem
        self._habits = habits or Habits()
        self._step = step
        self._log = log
        self._bootloader = Bootloader(flash, factory_version=factory_version, step=step)
        self._memory = UpdateMemory(flash)
        self._work = asyncio.Event()
        self._job: asyncio.Task[None] | None = None
        self._online = asyncio.Event()
        self._flushed = asyncio.Event()
        self.running = asyncio.Event()
        """Set while firmware runs that may connect; clear during a restart."""

    @property
    def version(self) -> str:
        """Of what runs."""
        return self._bootloader.image.version

    @property
    def unsent(self) -> tuple[Report, ...]:
        """Reports of before, to be said again after a start."""
        return self._memory.unsent

    def settled(self, number: int) -> None:
        """A report was acknowledged."""
        self._memory.settled(number)
        if not self._memory.unsent:
            self._flushed.set()

    def online(self, connected: bool) -> None:
        """Whether the device is connected and subscribed now."""
        (self._online.set if connected else self._online.clear)()

    def close(self) -> None:
        """Let go of what is not to be kept."""
        self._flash.close()

    async def run(self) -> None:
        """Start up, and go on with updates, until cancelled."""
        await self._boot()
        while True:
            update = self._memory.current
            if update is None:
                self._work.clear()
                await self._work.wait()
                continue
            self._job = asyncio.create_task(self._go_on(update), name=f"update {update.update_id}")
            try:
                # cancelled by cancel_update: the next round finds nothing to do
                await asyncio.wait({self._job})
                if not self._job.cancelled():
                    self._job.result()
            finally:
                self._job.cancel()
                await asyncio.wait({self._job})

    def offered(self, payload: bytes) -> None:
        """Something came on ``ota_notify``; what is none of the contract's offers is passed over."""
        try:
            offer = Offer.model_validate_json(payload)
        except ValidationError:
            self._log("an offer that cannot be read")
            return
        ended = self._memory.ended(offer.update_id)
        current = self._memory.current
        if ended is not None:
            self._say(self._memory.repeat(ended))
        elif offer.action == "cancel_update":
            self._cancel(offer.update_id, current)
        elif current is not None and current.update_id == offer.update_id:
            self._say(self._memory.repeat(self._status(current, current.state)))
        elif current is not None:
            self._end(offer.update_id, "failed", error="another update is under way")
        elif offer.action == "rollback":
            self._begin(Update(update_id=offer.update_id, action="rollback", state="accepted"))
        else:
            self._consider(offer)

    def _consider(self, offer: Offer) -> None:
        if (offer.params or {}).get("version") == self.version:
            self._end(offer.update_id, "already_installed")
            return
        try:
            file = OfferedFile.model_validate(offer.params)
        except ValidationError as error:
            name = ".".join(str(part) for part in error.errors()[0]["loc"])
            self._end(offer.update_id, "failed", error=f"the offer cannot be used: {name or 'params'}")
            return
        if file.sha256 == self._bootloader.image.sha256:
            self._end(offer.update_id, "already_installed")
            return
        self._flash.path(PART).unlink(missing_ok=True)
        self._begin(Update(update_id=offer.update_id, action="start_update", state="accepted", **file.model_dump()))

    def _begin(self, update: Update) -> None:
        self._move(update, update.state)
        self._work.set()

    def _cancel(self, update_id: str, current: Update | None) -> None:
        """Stop what can be stopped. An id that is not known yet is remembered: its offer may still come."""
        if current is None or current.update_id != update_id:
            self._end(update_id, "cancelled")
        elif current.state in BEFORE_INSTALLING and current.action == "start_update":
            if self._job is not None:
                self._job.cancel()
            self._end(update_id, "cancelled")
            self._flash.path(PART).unlink(missing_ok=True)
        else:
            self._say(self._memory.repeat(self._status(current, current.state)))

    # --- the steps -------------------------------------------------------------------------------------------

    async def _go_on(self, update: Update) -> None:
        """From whatever was reported last to the end, or to the restart."""
        try:
            if update.action == "rollback":
                await self._go_back(update)
            else:
                await self._install(update)
        except (DownloadError, SlotError) as error:
            self._flash.path(PART).unlink(missing_ok=True)
            self._end(update.update_id, "failed", error=str(error))

    async def _install(self, update: Update) -> None:
        part = self._flash.path(PART)
        image = Image(version=update.version or "", size=update.size, sha256=update.sha256)
        if update.state in ("accepted", "downloading"):
            await self._download(update)
            update = self._move(update, "downloaded")
        if update.state == "downloaded":
            if part.stat().st_size != update.size or await asyncio.to_thread(checksum, part) != update.sha256:
                raise DownloadError("the file's SHA-256 is not the offer's")
            update = self._move(update, "verified")
        if update.state == "verified":
            update = self._move(update, "installing")
        if update.state == "installing" and not self._runs(update):
            self._bootloader.install(part, image)
            self._bootloader.try_other()
            update = self._move(update, "rebooting")
            await self._restart()
        await self._judge_start(update)

    def _runs(self, update: Update) -> bool:
        """Whether the new image is what runs; also after a failure of power before the restart was reported."""
        return self._bootloader.image.sha256 == update.sha256

    async def _download(self, update: Update) -> None:
        told = -1

        def progress(have: int) -> None:
            nonlocal told
            step = have * 100 // update.size // PROGRESS_STEP
            if step > told:
                told = step
                self._move(update, "downloading", progress=float(step * PROGRESS_STEP))

        part = self._flash.path(PART)
        progress(part.stat().st_size if part.exists() else 0)
        await Download(
            url=update.url,
            path=part,
            size=update.size,
            ca_pem=self._ca_pem(),
            random=self._random,
            progress=progress,
            patience=self._habits.patience,
        ).run()

    async def _go_back(self, update: Update) -> None:
        if update.state == "accepted":
            if self._bootloader.before is None:
                raise SlotError("there is no firmware to go back to")
            update = self._move(update.model_copy(update={"target": self._bootloader.other}), "rebooting")
        if update.target is not None and self._bootloader.slot != update.target:
            self._bootloader.activate(update.target)
            await self._restart()
        self._end(update.update_id, "rolled_back")

    async def _judge_start(self, update: Update) -> None:
        """After the restart: the new image has to prove itself, or the old one runs again."""
        bootloader = self._bootloader
        if self._runs(update) and bootloader.on_trial and not await self._prove():
            bootloader.abandon()
            self._log(f"firmware {self.version} does not reach the appliance: going back")
            await self._restart()
        if self._runs(update):
            bootloader.confirm()
            self._end(update.update_id, "installed")
        else:
            self._end(update.update_id, "rolled_back", error="the new firmware did not prove itself")

    async def _prove(self) -> bool:
        """Whether this firmware reaches the appliance in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._habits.confirm_within_s):
                await self._online.wait()
                return True
        return False

    # --- restarts --------------------------------------------------------------------------------------------

    async def _restart(self) -> None:
        """Say what is left to say, go down, and come up with what the bootloader chooses."""
        if self._memory.unsent:
            self._flushed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._habits.flush_s):
                    await self._flushed.wait()
        self.running.clear()
        self._online.clear()
        self._cut()
        await asyncio.sleep(self._habits.boot_s)
        await self._boot()

    async def _boot(self) -> None:
        """Until something runs. The state of an update decides nothing here, as in a bootloader."""
        while (header := self._bootloader.boot()).bad == "boot" and self._bootloader.on_trial:
            self._log(f"firmware {self.version} crashes")
            await asyncio.sleep(self._habits.boot_s)
        self._log(f"firmware {self.version} runs{' on trial' if self._bootloader.on_trial else ''}")
        if header.bad != "connect":
            self.running.set()

    # --- reports ---------------------------------------------------------------------------------------------

    def _move(self, update: Update, state: OtaState, *, progress: float | None = None) -> Update:
        """The update is in this state from now on; that is on disk, and said."""
        moved = update.model_copy(update={"state": state})
        self._step(f"before {state}")
        report = self._memory.note(moved, self._status(moved, state, progress))
        self._step(state)
        self._say(report)
        self._log(f"update {update.update_id}: {state}{'' if progress is None else f' {progress:.0f} %'}")
        return moved

    def _status(self, update: Update, state: OtaState, progress: float | None = None) -> OtaStatus:
        return OtaStatus(update_id=update.update_id, state=state, progress=progress, version=update.version)

    def _end(self, update_id: str, state: OtaState, *, error: str | None = None) -> None:
        """It is over: that is on disk, and said, together with the version that runs now."""
        status = OtaStatus(update_id=update_id, state=state, version=self.version, error=error)
        self._step(f"before {state}")
        report = self._memory.end(status)
        self._step(state)
        self._say(report)
        self._log(f"update {update_id}: {state}{'' if error is None else f', {error}'}")
