"""Counts per device, written in the transaction of what they count: received = stored + waiting + parked + removed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from appliance.store.messages import READING
from appliance.store.meta import get_meta, last_seq
from appliance.store.settled import SettledRanges

TOPIC_CHARACTERS = 256
UNKNOWN_DEVICE = "?"
"""Whose readings were damaged so that their device cannot be told; no device is called so."""
COUNTED_ROWS = 10_000
"""More rows than that are not counted to check the ledger: the writer thread has other things to do."""
_COLUMNS = "device, received, stored, parked, removed, refused, repeated"


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One device's readings. ``refused`` counts publishes that were acknowledged and dropped, ``repeated`` repeats
    of a ``msg_id``; neither is part of ``received``. ``removed`` were parked, and an operator or the bound of that
    list removed them."""

    device: str
    received: int = 0
    stored: int = 0
    parked: int = 0
    removed: int = 0
    refused: int = 0
    repeated: int = 0

    @property
    def waiting(self) -> int:
        """Readings on this disk that Odoo does not have yet."""
        return self.received - self.stored - self.parked - self.removed

    @property
    def possible(self) -> bool:
        """Whether these numbers can be. Damage that has no name counts as parked for :data:`UNKNOWN_DEVICE`, while
        its reading waits for ever on the line of the device that sent it: only the two together add up."""
        counts = (self.received, self.stored, self.parked, self.removed, self.refused, self.repeated)
        return all(count >= 0 for count in counts) and (self.waiting >= 0 or self.device == UNKNOWN_DEVICE)


@dataclass(frozen=True, slots=True)
class Removal:
    """Parked messages of one device and kind that were removed for good; times are milliseconds since 1970."""

    device: str
    kind: int
    reason: str
    count: int
    last_at_ms: int


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """Some lines and what holds for all of them, at one moment."""

    lines: list[LedgerLine]
    more: bool
    removals: list[Removal]
    """Of the devices of these lines."""
    total: LedgerLine
    devices: int
    """How many lines there are in all."""
    counted_waiting: int | None
    """Waiting readings, counted from their rows; ``None`` where there are too many to count in passing."""
    counted_parked: int | None
    """Parked readings, counted from their rows; ``None`` as above."""

    @property
    def adds_up(self) -> bool:
        """Whether the counters agree with each other, and with the rows as far as these were counted."""
        agree = self.counted_waiting in (None, self.total.waiting) and self.counted_parked in (None, self.total.parked)
        return agree and self.total.possible and all(line.possible for line in self.lines)


def count_readings(
    connection: sqlite3.Connection,
    device: str,
    *,
    received: int = 0,
    stored: int = 0,
    parked: int = 0,
    removed: int = 0,
    refused: int = 0,
    repeated: int = 0,
) -> None:
    """Add to a device's line."""
    connection.execute(
        "INSERT INTO ledger (device, received, stored, parked, removed, refused, repeated) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (device) DO UPDATE SET received = received + excluded.received,"
        " stored = stored + excluded.stored, parked = parked + excluded.parked, removed = removed + excluded.removed,"
        " refused = refused + excluded.refused, repeated = repeated + excluded.repeated",
        (device, received, stored, parked, removed, refused, repeated),
    )


def read_ledger(connection: sqlite3.Connection, device: str | None) -> list[LedgerLine]:
    """The lines of one device, or of all."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM ledger WHERE device = ? OR ? IS NULL ORDER BY device",  # noqa: S608
        (device, device),
    )
    return [LedgerLine(*row) for row in rows.fetchall()]


def read_total(connection: sqlite3.Connection) -> tuple[LedgerLine, int]:
    """All lines added up, and how many they are."""
    *sums, devices = connection.execute(
        "SELECT total(received), total(stored), total(parked), total(removed), total(refused), total(repeated),"
        " count(*) FROM ledger"
    ).fetchone()
    return LedgerLine("", *map(int, sums)), devices


def read_page(connection: sqlite3.Connection, *, search: str, after: str, limit: int) -> LedgerPage:
    """Lines in order of their device, from the one behind ``after``; ``search`` is a part of the device's id."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM ledger WHERE device > ? AND instr(device, ?) ORDER BY device LIMIT ?",  # noqa: S608
        (after, search, limit + 1),
    ).fetchall()
    lines = [LedgerLine(*row) for row in rows[:limit]]
    removals: list[Removal] = []
    if lines:
        found = connection.execute(
            "SELECT device, kind, reason, count, last_at_ms FROM removals WHERE device BETWEEN ? AND ?"
            " ORDER BY device, kind, reason",
            (lines[0].device, lines[-1].device),
        )
        shown = {line.device for line in lines}
        removals = [Removal(*row) for row in found if row[0] in shown]
    total, devices = read_total(connection)
    return LedgerPage(
        lines, len(rows) > limit, removals, total, devices, _count_waiting(connection), _count_parked(connection)
    )


def check_ledger(connection: sqlite3.Connection) -> bool:
    """Whether every line is possible, and all together agree with the rows as far as these are counted in passing."""
    page = read_page(connection, search="", after="", limit=0)
    row = connection.execute(
        "SELECT count(*) FROM ledger WHERE min(received, stored, parked, removed, refused, repeated) < 0"
        " OR (received < stored + parked + removed AND device <> ?)",
        (UNKNOWN_DEVICE,),
    ).fetchone()
    return page.adds_up and row[0] == 0


def _count_waiting(connection: sqlite3.Connection) -> int | None:
    if get_meta(connection, "counted_waiting") > COUNTED_ROWS:
        return None
    count = 0
    for first, last in SettledRanges.load(connection).gaps(1, last_seq(connection)):
        row = connection.execute(
            "SELECT count(*) FROM messages WHERE seq BETWEEN ? AND ? AND kind = ?", (first, last, READING)
        ).fetchone()
        count += row[0]
    return count


def _count_parked(connection: sqlite3.Connection) -> int | None:
    if get_meta(connection, "parked") > COUNTED_ROWS:
        return None
    row = connection.execute("SELECT total(messages) FROM parked WHERE kind = ?", (READING,)).fetchone()
    return int(row[0])


def count_removal(
    connection: sqlite3.Connection, *, device: str, kind: int, reason: str, count: int, at_ms: int
) -> None:
    """Count parked messages that were removed for good; of readings, the ledger's line changes too."""
    connection.execute(
        "INSERT INTO removals (device, kind, reason, count, last_at_ms) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (device, kind, reason) DO UPDATE SET count = count + excluded.count,"
        " last_at_ms = excluded.last_at_ms",
        (device, kind, reason, count, at_ms),
    )
    readings = count if kind == READING else 0
    # a line even where it is all zeros: the page lists removals with it
    count_readings(connection, device, parked=-readings, removed=readings)


def note_refusal(
    connection: sqlite3.Connection, *, device: str, reason: str, topic: str, count: int, at_ms: int
) -> None:
    """Count publishes that were acknowledged and dropped, with the last topic they went to."""
    connection.execute(
        "INSERT INTO refusals (device, reason, count, last_at_ms, last_topic) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (device, reason) DO UPDATE SET count = count + excluded.count,"
        " last_at_ms = excluded.last_at_ms, last_topic = excluded.last_topic",
        (device, reason, count, at_ms, topic[:TOPIC_CHARACTERS]),
    )
    count_readings(connection, device, refused=count)


def read_refusals(connection: sqlite3.Connection, device: str) -> list[dict[str, object]]:
    """Why publishes of this device were dropped: reason, count, last time and topic."""
    rows = connection.execute(
        "SELECT reason, count, last_at_ms, last_topic FROM refusals WHERE device = ? ORDER BY reason", (device,)
    )
    names = ("reason", "count", "last_at_ms", "last_topic")
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
