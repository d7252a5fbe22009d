"""The rules by which an update changes (contract, "Firmware updates").

Each rule runs in the writer thread and looks at the row as it is there, so that two who decide at the same time cannot
both be right. Changes that the appliance makes add an ``OTA_STATUS`` message in the same transaction; a device's report
is that message itself, as the device sent it.

**The truth wins**: what a device says is final, and its first final report counts. What the appliance concluded by
itself yields to a final report that comes later. A device that has reported ``installed`` or ``failed`` may still
report ``rolled_back``: a watchdog may take days to find that the new firmware does not do.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.contract.device import OtaStatus, PayloadError
from appliance.contract.odoo import Kind
from appliance.contract.ota import FINAL, FailureReason, UpdateState, rank
from appliance.store.outbox import Moment, Work
from appliance.store.parked import park
from appliance.store.updates import (
    NewUpdate,
    UpdateOutcome,
    UpdateRow,
    add_row,
    change_state,
    keep_row,
    open_row,
    row_at,
    row_of,
)

MAX_DELIVERIES = 5
_HOUR_MS = 3_600_000
_DOWNLOADING = ("delivered", "accepted", "downloading")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long an update may stay in a state, in milliseconds, by group of states."""

    fetch_ms: int = 12 * _HOUR_MS
    offer_ms: int = 72 * _HOUR_MS
    download_ms: int = 6 * _HOUR_MS
    install_ms: int = _HOUR_MS

    def of(self, row: UpdateRow) -> int:
        """Of an update that has just entered its state."""
        if row.state == "fetching":
            return self.fetch_ms
        if row.due:
            return self.offer_ms
        return self.download_ms if row.state in _DOWNLOADING else self.install_ms

    @property
    def link_ms(self) -> int:
        """How long a link must last that goes out with an offer: the device may begin at the very end, and then go on
        as long as its progress grows, which nobody bounds but this."""
        return self.offer_ms + 4 * self.download_ms + self.install_ms


def add(work: Work, *, new: NewUpdate, moment: Moment, deadlines: Deadlines) -> UpdateOutcome:
    """Store an order. Not ``changed`` if its id is known already (``row``), or the device has another (``busy``)."""
    known = row_of(work, new.update_id)
    if known is not None:
        return UpdateOutcome(False, known)
    other = open_row(work, new.device)
    if other is not None:
        return UpdateOutcome(False, None, other.update_id)
    state: UpdateState = "fetching" if new.action == "start_update" else "queued"
    wait_ms = deadlines.fetch_ms if state == "fetching" else deadlines.offer_ms
    return UpdateOutcome(True, add_row(work, new, state, moment, deadline_ms=moment.steady_ms + wait_ms))


def refuse(
    work: Work, *, new: NewUpdate, state: UpdateState, reason: FailureReason, error: str | None, moment: Moment
) -> UpdateOutcome:
    """Keep an order that is not carried out, and tell Odoo; once, for then its id is known."""
    known = row_of(work, new.update_id)
    if known is not None:
        return UpdateOutcome(False, known)
    row = add_row(work, new, state, moment, deadline_ms=moment.steady_ms, reason=reason, error=error)
    return UpdateOutcome(True, row)


def fetched(
    work: Work, *, position: int, sha256: str, size: int, moment: Moment, deadlines: Deadlines
) -> UpdateOutcome:
    """The file is here and was checked: the offer may go out."""
    row = row_at(work, position)
    if row is None or row.state != "fetching":
        return UpdateOutcome(False, row)
    row.sha256, row.size = sha256, size
    row.link_expires_ms = moment.steady_ms + deadlines.link_ms
    row.deadline_ms = moment.steady_ms + deadlines.offer_ms
    change_state(work, row, "queued", moment)
    return UpdateOutcome(True, row)


def refetch(work: Work, *, position: int, moment: Moment, deadlines: Deadlines) -> UpdateOutcome:
    """The file is gone before anything was offered: back to the beginning."""
    row = row_at(work, position)
    if row is None or row.state != "queued":
        return UpdateOutcome(False, row)
    row.deadline_ms = moment.steady_ms + deadlines.fetch_ms
    change_state(work, row, "fetching", moment)
    return UpdateOutcome(True, row)


def fail(work: Work, *, position: int, reason: FailureReason, error: str, moment: Moment) -> UpdateOutcome:
    """It cannot be carried out: the file could not be had, or the offer is too large. Not once the device knows."""
    row = row_at(work, position)
    if row is None or not row.open or row.deliveries or row.acknowledged or row.state == "cancelling":
        return UpdateOutcome(False, row)
    change_state(work, row, "failed", moment, reason=reason, error=error)
    return UpdateOutcome(True, row)


def unpair(work: Work, *, position: int, moment: Moment) -> UpdateOutcome:
    """Its device id lost its device: what was ordered for one machine is not for another."""
    row = row_at(work, position)
    if row is None or not row.open:
        return UpdateOutcome(False, row)
    change_state(work, row, "failed", moment, reason="unpaired")
    return UpdateOutcome(True, row)


def claim(work: Work, *, position: int, moment: Moment) -> UpdateOutcome:
    """Count one more delivery before its bytes are written; what has had its deliveries fails instead."""
    row = row_at(work, position)
    if row is None or not row.due:
        return UpdateOutcome(False, row)
    if used_up(row):
        change_state(work, row, "failed", moment, reason="no_ack")
        return UpdateOutcome(False, row)
    row.deliveries += 1
    if row.state == "queued":
        change_state(work, row, "offered", moment)
    else:
        keep_row(work, row, moment)
    return UpdateOutcome(True, row)


def unclaim(work: Work, *, position: int, moment: Moment) -> UpdateOutcome:
    """The delivery counted last was not written: count it back."""
    row = row_at(work, position)
    if row is None or not row.due or not row.deliveries:
        return UpdateOutcome(False, row)
    row.deliveries -= 1
    keep_row(work, row, moment)
    return UpdateOutcome(True, row)


def acknowledge(
    work: Work, *, position: int, cancellation: bool, moment: Moment, deadlines: Deadlines
) -> UpdateOutcome:
    """The device's PUBACK, of the offer or of the cancellation."""
    row = row_at(work, position)
    if row is None or not row.due or cancellation != (row.state == "cancelling"):
        return UpdateOutcome(False, row)
    row.acknowledged = 1
    if cancellation:
        row.deadline_ms = moment.steady_ms + deadlines.install_ms
        keep_row(work, row, moment)
    else:
        row.deadline_ms = moment.steady_ms + deadlines.download_ms
        change_state(work, row, "delivered", moment)
    return UpdateOutcome(True, row)


def give_up(work: Work, *, position: int, moment: Moment) -> UpdateOutcome:
    """The connection ended without PUBACK: what has had its deliveries fails."""
    row = row_at(work, position)
    if row is None or not row.due or not used_up(row):
        return UpdateOutcome(False, row)
    change_state(work, row, "failed", moment, reason="no_ack")
    return UpdateOutcome(True, row)


def pass_deadline(work: Work, *, position: int, moment: Moment) -> UpdateOutcome:
    """The deadline is over: it fails, and says in which state."""
    row = row_at(work, position)
    if row is None or not row.open or row.deadline_ms > moment.steady_ms:
        return UpdateOutcome(False, row)
    change_state(work, row, "failed", moment, reason="timeout", error=f"it was {row.state} for too long")
    return UpdateOutcome(True, row)


def cancel(work: Work, *, update_id: str, device: str, moment: Moment, deadlines: Deadlines) -> UpdateOutcome:
    """End what the device has not heard of; tell it to stop what it has.

    Not ``changed`` once it is being cancelled or has ended. ``row`` is ``None`` if this device has no such update.
    """
    row = row_of(work, update_id)
    if row is None or row.device != device:
        return UpdateOutcome(False, None)
    if not row.open or row.state == "cancelling":
        return UpdateOutcome(False, row)
    if (row.due and not row.deliveries) or row.state == "fetching":
        change_state(work, row, "cancelled", moment)
        return UpdateOutcome(True, row)
    row.deliveries = row.acknowledged = 0
    row.deadline_ms = moment.steady_ms + deadlines.offer_ms
    change_state(work, row, "cancelling", moment)
    return UpdateOutcome(True, row)


def report(
    work: Work,
    *,
    device: str,
    status: OtaStatus,
    payload: bytes,
    received_at_ms: int,
    moment: Moment,
    deadlines: Deadlines,
) -> UpdateOutcome:
    """A device's report: handed on always; it changes its own update, if that allows it."""
    work.tell(device, Kind.OTA_STATUS, payload, received_at_ms)
    row = row_of(work, status.update_id)
    if row is None or row.device != device:
        return UpdateOutcome(False, None)
    if not row.open:
        return _late_news(work, row, status, moment)
    if status.progress is not None and status.state not in FINAL:
        # by whole percents: a hundred times at most
        risen = row.progress is None or int(status.progress) > int(row.progress)
        row.progress = max(status.progress, row.progress or 0.0)
    else:
        risen = False
    if status.state in FINAL:
        _end(work, row, status, moment, late=False)
    elif row.state == "cancelling":
        keep_row(work, row, moment)
    elif rank(status.state) > rank(row.state):
        row.acknowledged = 1
        row.state = status.state
        row.deadline_ms = moment.steady_ms + deadlines.of(row)
        change_state(work, row, status.state, moment, told=True)
    elif status.state == row.state and risen:
        row.deadline_ms = moment.steady_ms + deadlines.of(row)
        keep_row(work, row, moment)
    else:
        return UpdateOutcome(False, row_at(work, row.position))
    return UpdateOutcome(True, row)


def park_report(work: Work, *, device: str, payload: bytes, error: PayloadError, received_at_ms: int) -> UpdateOutcome:
    """A report that the contract does not allow goes to the list that says why not."""
    park(
        work.connection,
        device=device,
        kind=Kind.OTA_STATUS,
        payload=payload,
        code=error.code,
        message=error.message,
        received_at_ms=received_at_ms,
    )
    return UpdateOutcome(False, None)


def used_up(row: UpdateRow) -> bool:
    """Whether no further delivery is allowed."""
    return row.deliveries >= MAX_DELIVERIES


def _late_news(work: Work, row: UpdateRow, status: OtaStatus, moment: Moment) -> UpdateOutcome:
    undone = status.state == "rolled_back" and row.state in ("installed", "failed")
    if status.state not in FINAL or (row.from_device and not undone) or row.reason in ("refused", "unknown_update"):
        return UpdateOutcome(False, row)
    _end(work, row, status, moment, late=True)
    return UpdateOutcome(True, row)


def _end(work: Work, row: UpdateRow, status: OtaStatus, moment: Moment, *, late: bool) -> None:
    row.from_device = 1
    version = status.version
    if status.state in ("installed", "already_installed"):
        version = version or row.version
    if status.state in ("installed", "already_installed", "rolled_back") and version:
        row.new_version = version
    reason = "device" if status.state == "failed" else None
    change_state(work, row, status.state, moment, reason=reason, error=status.error, late=late, told=True)
