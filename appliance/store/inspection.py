"""Looking into the database file from another process, whether the appliance runs or not; nothing is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from appliance.errors import StoreFormatError, StoreUnavailableError
from appliance.store.connection import is_damage
from appliance.store.device_rows import count_devices
from appliance.store.kinds import BufferKinds, read_kinds
from appliance.store.ledger import LedgerLine, read_total
from appliance.store.meta import get_meta, last_seq
from appliance.store.parked import PARKED_BYTES, PARKED_COUNT
from appliance.store.settled import SettledRanges
from appliance.store.snapshot import check_ours, find_flaws

__all__ = ["Contents", "find_flaws", "look_into", "read_contents"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database file holds, in numbers."""

    total: LedgerLine
    """All devices' lines of the ledger added up."""
    ledger_devices: int
    waiting: int
    """Messages of any kind that wait for Odoo."""
    oldest_received_at_ms: int | None
    parked: int
    parked_bytes: int
    kinds: BufferKinds
    last_seq: int
    devices: int
    """Paired ones."""
    open_commands: int


@contextmanager
def look_into(path: Path) -> Iterator[sqlite3.Connection]:
    """One moment of the file, to read only. :class:`StoreUnavailableError`, :class:`StoreFormatError`."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None)) as connection:
            connection.text_factory = lambda text: text.decode(errors="replace")
            connection.execute("PRAGMA query_only = 1")
            connection.execute("PRAGMA busy_timeout = 2000")
            check_ours(connection, path)
            connection.execute("BEGIN")
            yield connection
    except sqlite3.Error as error:
        if is_damage(error):
            raise StoreFormatError(f"{path} is damaged or no database: {error}") from error
        raise StoreUnavailableError(f"{path} cannot be read: {error}") from error


def read_contents(connection: sqlite3.Connection) -> Contents:
    """Count what is there; bounded, however much that is."""
    newest = last_seq(connection)
    gaps = list(SettledRanges.load(connection).gaps(1, newest))
    waiting = sum(last - first + 1 for first, last in gaps)
    oldest = None
    if gaps:
        row = connection.execute(
            "SELECT received_at_ms FROM messages WHERE seq >= ? ORDER BY seq LIMIT 1", (gaps[0][0],)
        ).fetchone()
        oldest = None if row is None else int(row[0])
    total, ledger_devices = read_total(connection)
    return Contents(
        total=total,
        ledger_devices=ledger_devices,
        waiting=waiting,
        oldest_received_at_ms=oldest,
        parked=get_meta(connection, PARKED_COUNT),
        parked_bytes=get_meta(connection, PARKED_BYTES),
        kinds=read_kinds(connection, waiting=waiting),
        last_seq=newest,
        devices=count_devices(connection),
        open_commands=connection.execute("SELECT count(*) FROM outbox WHERE settled_ms IS NULL").fetchone()[0],
    )
