"""Firmware updates of devices: one row each, which survives any crash; here is how the rows are read and written.

How they change stands in :mod:`appliance.store.update_rules`. Deadlines are times of a steady clock, as with commands.
That a device has one open update is held by an index.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json

from appliance.contract.odoo import Kind
from appliance.contract.ota import FINAL, UpdateEvent, UpdateState, update_message
from appliance.contract.times import rfc3339
from appliance.store.database import Database
from appliance.store.meta import get_meta, set_meta
from appliance.store.outbox import ClockState, Moment, Work

LOAD_ROWS = 500
PRUNE_ROWS = 500
ERROR_CHARACTERS = 300
HISTORY_BYTES = 4096
"""What comes after so much is not listed any more, but for the end."""
_CLOCK = ("updates_clock_machine", "updates_clock_base_ms", "updates_clock_offset_ms")
_COLUMNS = (
    "position, update_id, device, action, digest, params, sha256, size, created_at_ms, state, reason, error, progress,"
    " from_device, acknowledged, deliveries, link_expires_ms, deadline_ms, settled_ms, new_version"
)
_SELECT_ROW = f"SELECT {_COLUMNS} FROM updates "  # noqa: S608

UpdateAction = Literal["start_update", "rollback", "cancel_update"]


@dataclass(slots=True)
class UpdateRow:
    """What decides over an update. A row read in a job is that job's own. ``created_at_ms`` is of the wall clock."""

    position: int
    update_id: str
    device: str
    action: UpdateAction
    """``cancel_update`` where a sync cancelled what was not known."""
    digest: bytes
    params: str
    sha256: str | None
    size: int | None
    created_at_ms: int
    state: UpdateState
    reason: str | None
    error: str | None
    progress: float | None
    from_device: int
    """Whether the device itself has said how it ended."""
    acknowledged: int
    """Whether the device has acknowledged what it was sent last: the offer, or the cancellation."""
    deliveries: int
    """Of that."""
    link_expires_ms: int | None
    deadline_ms: int
    settled_ms: int | None
    new_version: str | None
    """Firmware that the device runs now and that the registry has not heard of."""

    @property
    def open(self) -> bool:
        """Whether anything is still awaited."""
        return self.settled_ms is None

    @property
    def due(self) -> bool:
        """Whether something is to be written to the device, perhaps again."""
        return self.open and not self.acknowledged and self.state in ("queued", "offered", "cancelling")

    @property
    def ordered(self) -> dict[str, Any]:
        """The parameters of the order."""
        params: dict[str, Any] = from_json(self.params)
        return params

    @property
    def version(self) -> str | None:
        """The version that was ordered."""
        version = self.ordered.get("version")
        return version if isinstance(version, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpdate:
    """An order that was accepted and is to be stored."""

    update_id: str
    device: str
    action: UpdateAction
    digest: bytes
    params: str
    sha256: str | None
    size: int | None


class UpdateOutcome(NamedTuple):
    """The row after a change; ``changed`` is false if the row did not allow it. ``busy``: the device's open update."""

    changed: bool
    row: UpdateRow | None
    busy: str | None = None


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """All that is kept of an update, for status queries."""

    row: UpdateRow
    history: str


Change = Callable[[Work], UpdateOutcome]


class Updates:
    """The updates table of a :class:`Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, changes: Sequence[Change], *, receipt: object = None) -> asyncio.Future[list[UpdateOutcome]]:
        """Make changes in one job, in their order; the future has an outcome for each, after the commit."""
        return self._database.submit(partial(Work.do, changes), receipt=receipt)

    async def find(self, update_id: str) -> StoredUpdate | None:
        """An update by its id, if it is known (still)."""
        return await self._database.run(lambda connection: _find(connection, update_id))

    async def at(self, position: int) -> UpdateRow | None:
        """The update at a position."""
        return await self._database.run(lambda connection: row_at(Work(connection), position))

    async def load(self) -> tuple[list[UpdateRow], ClockState, int]:
        """The open updates in their order, and settled ones with a version to note; how the steady clock stood, and
        the latest time it has shown."""
        rows: list[UpdateRow] = []
        while True:
            after = rows[-1].position if rows else 0
            found = await self._database.run(partial(_load, after=after))
            rows += found
            if len(found) < LOAD_ROWS:
                break
        state, latest_ms = await self._database.run(_clock_state)
        return rows, state, latest_ms

    async def prune(self, *, settled_before_ms: int, keep_rows: int) -> bool:
        """Remove a chunk of updates settled before a (steady) time, or above a number; whether more wait."""
        return await self._database.run(lambda connection: _prune(connection, settled_before_ms, keep_rows))


# --- one row: inside a job ----------------------------------------------------------------------------------------


def add_row(
    work: Work,
    new: NewUpdate,
    state: UpdateState,
    moment: Moment,
    *,
    deadline_ms: int,
    reason: str | None = None,
    error: str | None = None,
) -> UpdateRow:
    """Insert an update in its first state, which may be its last."""
    settled_ms = moment.steady_ms if state in FINAL else None
    at = rfc3339(moment.wall_ms)
    row = UpdateRow(
        position=0,
        update_id=new.update_id,
        device=new.device,
        action=new.action,
        digest=new.digest,
        params=new.params,
        sha256=new.sha256,
        size=new.size,
        created_at_ms=moment.wall_ms,
        state=state,
        reason=reason,
        error=error,
        progress=None,
        from_device=0,
        acknowledged=0,
        deliveries=0,
        link_expires_ms=None,
        deadline_ms=deadline_ms,
        settled_ms=settled_ms,
        new_version=None,
    )
    cursor = work.connection.execute(
        "INSERT INTO updates (update_id, device, action, digest, params, sha256, size, created_at_ms, state, reason,"
        " error, from_device, acknowledged, deliveries, deadline_ms, settled_ms, touched_ms, history)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?, ?, ?)",
        (
            *(row.update_id, row.device, row.action, row.digest, row.params, row.sha256, row.size, row.created_at_ms),
            *(row.state, row.reason, row.error, row.deadline_ms, row.settled_ms, moment.steady_ms),
            _event(state, at, reason),
        ),
    )
    row.position = int(cursor.lastrowid or 0)
    _tell(work, row, at, moment)
    return row


def change_state(
    work: Work,
    row: UpdateRow,
    state: UpdateState,
    moment: Moment,
    *,
    reason: str | None = None,
    error: str | None = None,
    late: bool = False,
    told: bool = False,
) -> None:
    """Write a row with its new state and its history, and tell Odoo of it unless the device has (``told``)."""
    row.state, row.reason, row.error = state, reason, None if error is None else error[:ERROR_CHARACTERS]
    if state in FINAL:
        row.settled_ms = moment.steady_ms
    at = rfc3339(moment.wall_ms)
    keep_row(work, row, moment)
    work.connection.execute(
        "UPDATE updates SET history = history || ',' || ? WHERE position = ? AND (length(history) < ? OR ?)",
        (_event(state, at, reason, late=late), row.position, HISTORY_BYTES, state in FINAL),
    )
    if not told:
        _tell(work, row, at, moment)


def keep_row(work: Work, row: UpdateRow, moment: Moment) -> None:
    """Write what may change of a row."""
    work.connection.execute(
        "UPDATE updates SET state = ?, reason = ?, error = ?, progress = ?, sha256 = ?, size = ?, from_device = ?,"
        " acknowledged = ?, deliveries = ?, link_expires_ms = ?, deadline_ms = ?, settled_ms = ?, new_version = ?,"
        " touched_ms = ? WHERE position = ?",
        (
            *(row.state, row.reason, row.error, row.progress, row.sha256, row.size, row.from_device, row.acknowledged),
            *(row.deliveries, row.link_expires_ms, row.deadline_ms, row.settled_ms, row.new_version),
            *(moment.steady_ms, row.position),
        ),
    )


def note_clock(work: Work, *, state: ClockState) -> UpdateOutcome:
    """Keep where the steady clock stands."""
    for key, value in zip(_CLOCK, state, strict=True):
        set_meta(work.connection, key, value)
    return UpdateOutcome(True, None)


def version_noted(work: Work, *, position: int, version: str) -> UpdateOutcome:
    """The registry knows this version of a device now."""
    work.connection.execute(
        "UPDATE updates SET new_version = NULL WHERE position = ? AND new_version = ?", (position, version)
    )
    return UpdateOutcome(True, None)


def row_at(work: Work, position: int) -> UpdateRow | None:
    """The row at a position."""
    found = work.connection.execute(_SELECT_ROW + "WHERE position = ?", (position,)).fetchone()
    return UpdateRow(*found) if found else None


def row_of(work: Work, update_id: str) -> UpdateRow | None:
    """The row of an update id."""
    found = work.connection.execute(_SELECT_ROW + "WHERE update_id = ?", (update_id,)).fetchone()
    return UpdateRow(*found) if found else None


def open_row(work: Work, device: str) -> UpdateRow | None:
    """The open update of a device."""
    found = work.connection.execute(_SELECT_ROW + "WHERE device = ? AND settled_ms IS NULL", (device,)).fetchone()
    return UpdateRow(*found) if found else None


def _event(state: UpdateState, at: str, reason: str | None, *, late: bool = False) -> str:
    event = UpdateEvent(state=state, at=at, reason=reason, late=late or None)
    return event.model_dump_json(exclude_none=True)


def _tell(work: Work, row: UpdateRow, at: str, moment: Moment) -> None:
    payload = update_message(row.update_id, row.state, at, version=row.version, reason=row.reason, error=row.error)
    work.tell(row.device, Kind.OTA_STATUS, payload, moment.wall_ms)


# --- many rows ----------------------------------------------------------------------------------------------------


def _find(connection: sqlite3.Connection, update_id: str) -> StoredUpdate | None:
    found = connection.execute(
        f"SELECT {_COLUMNS}, history FROM updates WHERE update_id = ?",  # noqa: S608
        (update_id,),
    ).fetchone()
    return StoredUpdate(UpdateRow(*found[:-1]), found[-1]) if found else None


def _load(connection: sqlite3.Connection, after: int) -> list[UpdateRow]:
    rows = connection.execute(
        _SELECT_ROW + "WHERE (settled_ms IS NULL OR new_version IS NOT NULL) AND position > ?"
        " ORDER BY position LIMIT ?",
        (after, LOAD_ROWS),
    )
    return [UpdateRow(*row) for row in rows.fetchall()]


def _clock_state(connection: sqlite3.Connection) -> tuple[ClockState, int]:
    touched = connection.execute("SELECT max(touched_ms) FROM updates WHERE settled_ms IS NULL").fetchone()[0]
    settled = connection.execute("SELECT max(settled_ms) FROM updates WHERE settled_ms IS NOT NULL").fetchone()[0]
    return ClockState(*(get_meta(connection, key) for key in _CLOCK)), max(touched or 0, settled or 0)


def _prune(connection: sqlite3.Connection, settled_before_ms: int, keep_rows: int) -> bool:
    by_age = connection.execute(
        "DELETE FROM updates WHERE position IN"
        " (SELECT position FROM updates WHERE settled_ms < ? ORDER BY settled_ms LIMIT ?)",
        (settled_before_ms, PRUNE_ROWS),
    ).rowcount
    by_number = connection.execute(
        "DELETE FROM updates WHERE position IN (SELECT position FROM updates WHERE settled_ms IS NOT NULL"
        " ORDER BY settled_ms DESC, position DESC LIMIT ? OFFSET ?)",
        (PRUNE_ROWS, keep_rows),
    ).rowcount
    return max(by_age, by_number) == PRUNE_ROWS
