"""Two slots for firmware, as bootloaders of microcontrollers keep them: a new image is tried before it is trusted.

The image that runs stays where it is while a new one is written into the other slot. The new one gets a few boots on
trial; unless it is confirmed in one of them, the old one runs again. The power may fail at any moment. (MCUboot's
"test" swap, ESP-IDF's ``esp_ota_mark_app_valid_cancel_rollback``.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from firmware_sim.flash import Flash, sync_folder
from firmware_sim.image import Header, checksum, read_header

STATE = "boot.json"
TRIAL_BOOTS = 3
Slot = Literal["a", "b"]


class Image(BaseModel):
    """What lies in a slot. ``sha256`` is ``None`` for what the factory put there; ``good`` once it was confirmed."""

    model_config = ConfigDict(frozen=True)

    version: str
    size: int = 0
    sha256: str | None = None
    good: bool = False


class _State(BaseModel):
    """``left``: boots on trial that remain to the slot that is not active; ``None``: nothing is on trial."""

    model_config = ConfigDict(frozen=True)

    active: Slot = "a"
    left: int | None = None
    a: Image | None = None
    b: Image | None = None

    def slot(self, name: Slot) -> Image | None:
        return self.a if name == "a" else self.b


class SlotError(Exception):
    """A slot does not hold what it would have to; the text is for people."""


class Bootloader:
    """``factory_version`` is what runs before the first update. ``step`` is told of every step: tests fail there."""

    def __init__(self, flash: Flash, *, factory_version: str, step: Callable[[str], None] = lambda name: None) -> None:
        self._flash = flash
        self._step = step
        try:
            self._state = _State.model_validate(flash.read(STATE))
        except ValidationError:
            self._state = _State()
        if self._state.slot(self._state.active) is None:
            self._state = _State(a=Image(version=factory_version, good=True))
        self.slot: Slot = self._state.active
        """What runs since the last :meth:`boot`."""
        self.on_trial = False

    @property
    def image(self) -> Image:
        """What runs."""
        image = self._state.slot(self.slot)
        if image is None:
            raise RuntimeError("nothing is in the slot that runs")
        return image

    @property
    def other(self) -> Slot:
        """The slot that does not run."""
        return "b" if self.slot == "a" else "a"

    @property
    def before(self) -> Image | None:
        """What lies in the other slot, if it has proved itself: where a rollback leads."""
        image = self._state.slot(self.other)
        return image if image is not None and image.good and self._is_whole(self.other, image) else None

    def boot(self) -> Header:
        """Start what is to run now, and count the boot if it is on trial; what its header says."""
        state = self._state
        tried: Slot = "b" if state.active == "a" else "a"
        image = state.slot(tried)
        if state.left is not None and state.left > 0 and image is not None and self._is_whole(tried, image):
            self._save(state.model_copy(update={"left": state.left - 1}))
            self.slot, self.on_trial = tried, True
        else:
            if state.left is not None:
                self._save(state.model_copy(update={"left": None}))
            self.slot, self.on_trial = state.active, False
        return Header() if self.image.sha256 is None else read_header(self._path(self.slot))

    def install(self, source: Path, image: Image) -> None:
        """Move a file into the other slot; again with the same image after a failure of power. ``SlotError``."""
        if self.on_trial:
            raise SlotError("what runs has not proved itself yet")
        slot = self.other
        self._save(self._state.model_copy(update={slot: None, "left": None}))
        if source.exists():
            source.replace(self._path(slot))
            sync_folder(source.parent)
            self._step("moved")
        if not self._is_whole(slot, image):
            raise SlotError("the slot does not hold the image")
        self._save(self._state.model_copy(update={slot: image}))

    def try_other(self) -> None:
        """Boot the other slot next, on trial."""
        if self._state.slot(self.other) is None:
            raise SlotError("there is no other firmware")
        self._save(self._state.model_copy(update={"active": self.slot, "left": TRIAL_BOOTS}))

    def confirm(self) -> None:
        """What runs works: it stays."""
        good = self.image.model_copy(update={"good": True})
        self._save(self._state.model_copy(update={"active": self.slot, "left": None, self.slot: good}))
        self.on_trial = False

    def abandon(self) -> None:
        """What runs on trial does not work: the next boot is the old one's."""
        self._save(self._state.model_copy(update={"left": None}))

    def activate(self, slot: Slot) -> None:
        """Boot this slot from now on. ``SlotError`` unless it has proved itself."""
        image = self._state.slot(slot)
        if image is None or not image.good or not self._is_whole(slot, image):
            raise SlotError("there is no firmware to go back to")
        self._save(self._state.model_copy(update={"active": slot, "left": None}))

    def _path(self, slot: Slot) -> Path:
        return self._flash.path(f"slot-{slot}.bin")

    def _is_whole(self, slot: Slot, image: Image) -> bool:
        if image.sha256 is None:
            return True
        try:
            return checksum(self._path(slot)) == image.sha256
        except OSError:
            return False

    def _save(self, state: _State) -> None:
        self._step("before saving")
        self._flash.write(STATE, state.model_dump(mode="json"))
        self._state = state
        self._step("saved")
