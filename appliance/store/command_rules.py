"""The rules by which a command changes (contract, "Command and response").

Each rule runs in the writer thread and looks at the row as it is there, so that two who decide at the same time cannot
both be right. Each change adds its ``COMMAND_STATE`` message in the same transaction.

========== ============================================ =======================================
state      means                                        becomes
========== ============================================ =======================================
queued     nothing was written to the device            sent, expired, cancelled
sent       counted, then written; no PUBACK             delivered, done, failed, expired, queued (*)
delivered  PUBACK, or an answer ``in_progress``         done, failed; settled without an answer
done       the device answered ``ok``                   stays
failed     ``device``: it answered ``error``            stays
failed     ``no_ack``: sent too often without PUBACK    delivered, done, failed ``device`` (late)
failed     ``revoked``: sent, then the pairing ended    done, failed ``device`` (late)
expired    nobody knows it arrived in time              delivered, done, failed ``device`` (late)
cancelled  nothing was ever written (or ``revoked``)    stays
========== ============================================ =======================================

(*) A delivery that was counted but not written, because the device had just gone, is counted back.

**The truth wins**: what a device says is final, and its first final answer counts. What we only concluded (expired,
no_ack, settled without an answer) yields to a PUBACK or answer that comes later; such news are marked ``late``.
"""

from __future__ import annotations

from appliance.contract.command import CommandState
from appliance.contract.device import CommandResponse, PayloadError
from appliance.contract.odoo import Kind
from appliance.store.outbox import (
    Moment,
    NewCommand,
    OutboxRow,
    Outcome,
    Work,
    add_row,
    change_state,
    move_deadline,
    oldest_unanswered,
    read_payload,
    record_answer,
    row_at,
    row_of,
    settle_unanswered,
)
from appliance.store.parked import park

MAX_DELIVERIES = 3


def add(work: Work, *, new: NewCommand, moment: Moment, send_now: bool) -> Outcome:
    """Store a command; with ``send_now`` its first delivery is counted in the same transaction.

    Not ``changed`` if the id is known already; the row is the known one.
    """
    row = add_row(work, new, moment, send_now=send_now)
    if row is None:
        return Outcome(False, row_of(work, new.command_id))
    return Outcome(True, row, new.payload if send_now else b"")


def claim(work: Work, *, position: int, moment: Moment) -> Outcome:
    """Count one more delivery before its bytes are written; a command that has had its deliveries fails instead."""
    row = row_at(work, position)
    if row is None or not row.undelivered:
        return Outcome(False, row)
    if used_up(row):
        change_state(work, row, "failed", moment, reason="no_ack", settle=True)
        return Outcome(False, row)
    row.deliveries += 1
    change_state(work, row, "sent", moment, delivery=row.deliveries)
    return Outcome(True, row, read_payload(work, position))


def unclaim(work: Work, *, position: int, moment: Moment) -> Outcome:
    """The delivery counted last was not written: count it back."""
    row = row_at(work, position)
    if row is None or not row.undelivered or not row.deliveries:
        return Outcome(False, row)
    row.deliveries -= 1
    state: CommandState = "sent" if row.deliveries else "queued"
    change_state(work, row, state, moment, delivery=row.deliveries or None, reason="not_connected")
    return Outcome(True, row)


def acknowledge(work: Work, *, position: int, moment: Moment) -> Outcome:
    """The device's PUBACK. A command that was given up meanwhile is open again, for its answer."""
    row = row_at(work, position)
    if row is None or not row.deliveries or row.state == "delivered" or row.answered:
        return Outcome(False, row)
    late = not row.open
    row.deadline_ms, row.settled_ms = moment.steady_ms + row.response_limit_ms, None
    change_state(work, row, "delivered", moment, late=late)
    return Outcome(True, row)


def give_up(work: Work, *, position: int, moment: Moment) -> Outcome:
    """The connection ended without PUBACK: a command that has had its deliveries fails."""
    row = row_at(work, position)
    if row is None or not row.undelivered or not used_up(row):
        return Outcome(False, row)
    change_state(work, row, "failed", moment, reason="no_ack", settle=True)
    return Outcome(True, row)


def pass_deadline(work: Work, *, position: int, moment: Moment) -> Outcome:
    """The deadline is over: an undelivered command expires, a delivered one is settled without an answer."""
    row = row_at(work, position)
    if row is None or not row.open or row.deadline_ms > moment.steady_ms:
        return Outcome(False, row)
    if row.undelivered:
        change_state(work, row, "expired", moment, settle=True)
    else:
        settle_unanswered(work, row, moment)
    return Outcome(True, row)


def expire_unsure(work: Work, *, position: int, moment: Moment) -> Outcome:
    """Nobody knows how long the machine was off: an undelivered command is taken for too old."""
    row = row_at(work, position)
    if row is None or not row.undelivered:
        return Outcome(False, row)
    change_state(work, row, "expired", moment, reason="clock_behind", settle=True)
    return Outcome(True, row)


def cancel(work: Work, *, command_id: str, moment: Moment) -> Outcome:
    """Take back what was not written to the device yet."""
    row = row_of(work, command_id)
    if row is None or not row.open or row.state != "queued":
        return Outcome(False, row)
    change_state(work, row, "cancelled", moment, settle=True)
    return Outcome(True, row)


def end_revoked(work: Work, *, command_id: str, moment: Moment) -> Outcome:
    """Its device has lost its pairing: nothing is sent, and no answer can come."""
    row = row_of(work, command_id)
    if row is None or not row.open:
        return Outcome(False, row)
    change_state(work, row, "failed" if row.deliveries else "cancelled", moment, reason="revoked", settle=True)
    return Outcome(True, row)


def answer(
    work: Work,
    *,
    device: str,
    response: CommandResponse,
    payload: bytes,
    received_at_ms: int,
    moment: Moment,
) -> Outcome:
    """A device's answer: recorded always; it changes the command it belongs to unless that has its answer already.

    One that belongs to no command of this device goes on marked ``"matched": false``; the row is ``None`` then.
    """
    row = _answered_row(work, device, response.command_id)
    record_answer(work, row, device, payload, received_at_ms, has_id=response.command_id is not None)
    if row is None or row.answered:
        return Outcome(False, row)
    late = not row.open
    if response.status == "in_progress":
        if not late:
            row.deadline_ms = moment.steady_ms + row.response_limit_ms
            move_deadline(work, row, moment)
        if row.state != "delivered":
            change_state(work, row, "delivered", moment, late=late)
    elif response.status == "ok":
        change_state(work, row, "done", moment, settle=True, late=late)
    else:
        change_state(work, row, "failed", moment, reason="device", settle=True, late=late)
    return Outcome(True, row)


def park_answer(work: Work, *, device: str, payload: bytes, error: PayloadError, received_at_ms: int) -> Outcome:
    """An answer that the contract does not allow goes to the list that says why not."""
    park(
        work.connection,
        device=device,
        kind=Kind.COMMAND_RESPONSE,
        payload=payload,
        code=error.code,
        message=error.message,
        received_at_ms=received_at_ms,
    )
    return Outcome(False, None)


def used_up(row: OutboxRow) -> bool:
    """Whether no further delivery is allowed."""
    return row.deliveries >= (1 if row.at_most_once else MAX_DELIVERIES)


def _answered_row(work: Work, device: str, command_id: str | None) -> OutboxRow | None:
    """The command that an answer belongs to: this device's, and one that was sent."""
    if command_id is None:
        return oldest_unanswered(work, device)
    row = row_of(work, command_id)
    return row if row is not None and row.device == device and row.deliveries else None
