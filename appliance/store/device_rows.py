"""Rows of paired devices and of the tokens they paired with. Everything here runs in the writer thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from appliance.contract.odoo import DeviceConfig

VALID_GENERATIONS = 8
"""At most so many generations of one device's secret open the door at once."""
PAIRINGS_KEPT = 64
"""Tokens remembered per serial number, also after its device id went to another: none of them leads anywhere again."""
LOAD_ROWS = 500


class DeviceRow(NamedTuple):
    """A row of ``devices``; ``config`` is a ``DeviceConfig`` as JSON."""

    device_id: str
    serial: str
    generation: int
    valid_from: int
    login_generation: int
    enabled: int
    config: str
    firmware_version: str | None
    hardware: str | None
    paired_at_ms: int
    first_login_at_ms: int | None
    paired_generation: int
    secret_version: int
    told: str | None
    """:class:`appliance.store.device.Told` as JSON, like ``taken``."""
    taken: str | None
    topics: str | None
    """The exact names that were in force last, as JSON; ``None`` in rows of before there was this column."""
    earlier: str | None
    """A list of such names: what the device had before and may still use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A pairing that Odoo has granted and that is to be stored."""

    serial: str
    token_digest: bytes
    request_id: str
    config: DeviceConfig
    firmware_version: str | None = None
    hardware: str | None = None
    held: tuple[int, int] | None = None
    """Of a device that was paired with the box whose place this one has taken: the oldest valid generation and the
    newest, which it may have."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """What became of a token: who asked with it, and which device and secret it led to."""

    request_id: str
    device_id: str
    generation: int


_COLUMNS = ", ".join(DeviceRow._fields)
_LOAD = f"SELECT {_COLUMNS} FROM devices WHERE device_id > ? ORDER BY device_id LIMIT {LOAD_ROWS}"  # noqa: S608 constants
_GET = f"SELECT {_COLUMNS} FROM devices WHERE device_id = ?"  # noqa: S608 constants
_PUT = (
    f"INSERT INTO devices ({_COLUMNS}) VALUES ({', '.join('?' * len(DeviceRow._fields))})"  # noqa: S608 constants
    # an update, no REPLACE: what goes with a device that is deleted stays with one that is paired anew
    f" ON CONFLICT (device_id) DO UPDATE SET {', '.join(f'{each} = excluded.{each}' for each in DeviceRow._fields[1:])}"
)


def load(connection: sqlite3.Connection, *, after: str) -> list[DeviceRow]:
    """The next devices in order of their ids, at most ``LOAD_ROWS``."""
    return [DeviceRow(*row) for row in connection.execute(_LOAD, (after,))]


def count_devices(connection: sqlite3.Connection) -> int:
    """How many are paired."""
    return int(connection.execute("SELECT count(*) FROM devices").fetchone()[0])


def find_pairing(connection: sqlite3.Connection, *, serial: str, token_digest: bytes) -> Pairing | None:
    """What became of a token."""
    row = connection.execute(
        "SELECT request_id, device_id, generation FROM pairings WHERE serial = ? AND token_digest = ?",
        (serial, token_digest),
    ).fetchone()
    return None if row is None else Pairing(*row)


def pair(
    connection: sqlite3.Connection,
    *,
    claim: Claim,
    topics: str,
    earlier: str | None,
    now_ms: int,
    handed_over: Callable[[sqlite3.Connection, str], None],
) -> tuple[Pairing, DeviceRow | None]:
    """Store a claim; the device's new row, or ``None`` if the token was claimed before and nothing changed.

    ``topics`` and ``earlier`` as in the row; ``handed_over`` is called, last of all, if the id was another machine's.
    """
    known = find_pairing(connection, serial=claim.serial, token_digest=claim.token_digest)
    if known is not None:
        return known, None
    device_id = claim.config.device_id
    was_anothers = _is_anothers(connection, device_id, claim.serial)
    _retire_former(connection, claim.serial, device_id)
    row = _next_row(connection, claim, now_ms)._replace(topics=topics, earlier=earlier)
    connection.execute(_PUT, row)
    connection.execute(
        "INSERT INTO pairings (serial, token_digest, request_id, device_id, generation, paired_at_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (claim.serial, claim.token_digest, claim.request_id, device_id, row.generation, now_ms),
    )
    # the clock may have jumped: what was written just now stays whatever its time
    connection.execute(
        "DELETE FROM pairings WHERE serial = ?1 AND token_digest NOT IN (SELECT token_digest FROM pairings"
        " WHERE serial = ?1 ORDER BY token_digest = ?2 DESC, paired_at_ms DESC LIMIT ?3)",
        (claim.serial, claim.token_digest, PAIRINGS_KEPT),
    )
    if was_anothers:
        handed_over(connection, device_id)
    return Pairing(claim.request_id, device_id, row.generation), row


def _is_anothers(connection: sqlite3.Connection, device_id: str, serial: str) -> bool:
    """Whether this id is, or was when its pairing ended, that of a machine with another serial number."""
    found = connection.execute("SELECT serial FROM devices WHERE device_id = ?", (device_id,)).fetchone()
    if found is not None:
        return bool(found[0] != serial)
    # of an id without a device it is only known who had it: a machine that had it may have it again
    own = connection.execute("SELECT 1 FROM pairings WHERE serial = ? AND device_id = ?", (serial, device_id))
    return own.fetchone() is None and _retired_generation(connection, device_id) > 0


def _next_row(connection: sqlite3.Connection, claim: Claim, now_ms: int) -> DeviceRow:
    device_id = claim.config.device_id
    found = connection.execute(_GET, (device_id,)).fetchone()
    present = None if found is None else DeviceRow(*found)
    if present is not None and present.serial == claim.serial:
        generation = present.generation + 1
        valid_from = max(present.valid_from, generation - VALID_GENERATIONS + 1)
        login_generation, first_login_at_ms = present.login_generation, present.first_login_at_ms
        told, taken = present.told, present.taken
    else:
        # new here, or in the hands of another device: no earlier secret of this id may open the door
        last = _retired_generation(connection, device_id) if present is None else present.generation
        generation = valid_from = last + 1
        if claim.held is not None and claim.held[0] > last:
            valid_from, generation = claim.held
        login_generation, first_login_at_ms = 0, None
        told = taken = None
    return DeviceRow(
        device_id=device_id,
        serial=claim.serial,
        generation=generation,
        valid_from=valid_from,
        login_generation=login_generation,
        enabled=1,
        config=claim.config.model_dump_json(),
        firmware_version=claim.firmware_version,
        hardware=claim.hardware,
        paired_at_ms=now_ms,
        first_login_at_ms=first_login_at_ms,
        paired_generation=generation,
        # Odoo's count may go on with the device's next pairing: what it says with the claim is where this one begins
        secret_version=claim.config.secret_version,
        told=told,
        taken=taken,
        topics=None,
        earlier=None,
    )


def _retired_generation(connection: sqlite3.Connection, device_id: str) -> int:
    """The newest generation of an id that lost its device: a secret once ended must not come back."""
    row = connection.execute("SELECT generation FROM retired_devices WHERE device_id = ?", (device_id,)).fetchone()
    return 0 if row is None else int(row[0])


def _retire_former(connection: sqlite3.Connection, serial: str, device_id: str) -> None:
    """End the pairing that this serial number had under another device id."""
    former = connection.execute(
        "SELECT device_id, generation FROM devices WHERE serial = ? AND device_id <> ?", (serial, device_id)
    ).fetchone()
    if former is not None:
        connection.execute("INSERT OR REPLACE INTO retired_devices (device_id, generation) VALUES (?, ?)", former)
        connection.execute("DELETE FROM devices WHERE device_id = ?", former[:1])


def remove(
    connection: sqlite3.Connection,
    *,
    device_ids: Iterable[str],
    also: Callable[[sqlite3.Connection], object] | None = None,
) -> None:
    """End pairings. The tokens stay known, so that none of them leads anywhere again; so do the generations."""
    for device_id in device_ids:
        connection.execute(
            "INSERT OR REPLACE INTO retired_devices (device_id, generation)"
            " SELECT device_id, generation FROM devices WHERE device_id = ?",
            (device_id,),
        )
        connection.execute("DELETE FROM devices WHERE device_id = ?", (device_id,))
    if also is not None:
        also(connection)


_NOTED = ("valid_from", "login_generation", "first_login_at_ms", "firmware_version", "hardware", "told", "taken")
_CHANGED = ("generation", "enabled", "secret_version", "topics", "earlier")


def note(connection: sqlite3.Connection, *, rows: Iterable[DeviceRow]) -> None:
    """Store what devices have shown and were told."""
    _update(connection, _NOTED, rows)


def change(connection: sqlite3.Connection, *, rows: Sequence[DeviceRow]) -> None:
    """Store changes of devices; the configuration where the row has one."""
    _update(connection, _CHANGED, rows)
    _update(connection, ("config",), [row for row in rows if row.config])


def _update(connection: sqlite3.Connection, columns: Sequence[str], rows: Iterable[DeviceRow]) -> None:
    marks = ", ".join(f"{column} = ?" for column in columns)
    connection.executemany(
        f"UPDATE devices SET {marks} WHERE device_id = ?",  # noqa: S608 constants
        [(*(getattr(row, column) for column in columns), row.device_id) for row in rows],
    )
