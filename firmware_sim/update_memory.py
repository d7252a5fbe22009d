"""What a device remembers of firmware updates, so that a restart changes nothing: the one under way, those that have
ended, and reports that were not acknowledged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from appliance.contract.device import OtaState, OtaStatus
from firmware_sim.flash import Flash

FILE = "updates.json"
MOST_ENDED = 32
MOST_REPORTS = 200

UpdateId = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Update(BaseModel):
    """The one under way: what was ordered, and how far it is. ``target``: the slot that a rollback leads to."""

    model_config = ConfigDict(frozen=True)

    update_id: UpdateId
    action: Literal["start_update", "rollback"]
    state: OtaState
    version: str | None = None
    url: str = ""
    size: int = 0
    sha256: str = ""
    target: Literal["a", "b"] | None = None


class Report(BaseModel):
    """What the device says of an update; ``number`` tells it from others until it is acknowledged."""

    model_config = ConfigDict(frozen=True)

    number: int
    status: OtaStatus


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True)

    current: Update | None = None
    ended: tuple[OtaStatus, ...] = ()
    reports: tuple[Report, ...] = ()
    last: int = 0


class UpdateMemory:
    """Every change is on disk, together with the report of it, when a method returns."""

    def __init__(self, flash: Flash) -> None:
        self._flash = flash
        try:
            self._content = _Content.model_validate(flash.read(FILE))
        except ValidationError:
            self._content = _Content()

    @property
    def current(self) -> Update | None:
        """The update under way."""
        return self._content.current

    @property
    def unsent(self) -> tuple[Report, ...]:
        """Reports that were not acknowledged, oldest first."""
        return self._content.reports

    def ended(self, update_id: str) -> OtaStatus | None:
        """How an update ended, if it is one of the last."""
        return next((status for status in self._content.ended if status.update_id == update_id), None)

    def note(self, update: Update, status: OtaStatus) -> Report:
        """The update under way is this one from now on, and that is reported."""
        return self._report(status, {"current": update})

    def end(self, status: OtaStatus) -> Report:
        """An update, the one under way or another, has ended like this, and that is reported."""
        others = (one for one in self._content.ended if one.update_id != status.update_id)
        change: dict[str, Any] = {"ended": (*others, status)[-MOST_ENDED:]}
        if self._content.current is not None and self._content.current.update_id == status.update_id:
            change["current"] = None
        return self._report(status, change)

    def repeat(self, status: OtaStatus) -> Report:
        """Report something again, which changes nothing."""
        return self._report(status, {})

    def settled(self, number: int) -> None:
        """A report was acknowledged."""
        left = tuple(report for report in self._content.reports if report.number != number)
        if len(left) < len(self._content.reports):
            self._write({"reports": left})

    def _report(self, status: OtaStatus, change: dict[str, Any]) -> Report:
        report = Report(number=self._content.last + 1, status=status)
        reports = (*self._content.reports, report)[-MOST_REPORTS:]
        self._write({**change, "reports": reports, "last": report.number})
        return report

    def _write(self, change: dict[str, Any]) -> None:
        content = self._content.model_copy(update=change)
        self._flash.write(FILE, content.model_dump(mode="json"))
        self._content = content


class Offer(BaseModel):
    """What comes on ``ota_notify``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: Literal["start_update", "cancel_update", "rollback"]
    update_id: UpdateId
    params: dict[str, Any] | None = None


class OfferedFile(BaseModel):
    """The parameters of ``start_update``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    size: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$", to_lower=True)]
