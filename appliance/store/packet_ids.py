"""QoS 2 messages that were taken and not released yet (MQTT 3.1.1, §4.3.3), for sessions that outlive a connection.

The packet id is inserted in the very transaction of its message, and deleted before PUBCOMP goes out: after any crash
both are there or neither, and a message that is sent again is stored once.

The number of rows is bounded by :data:`MOST_OPEN` and goes down with the devices: a device that is removed takes its
rows along.
"""

from __future__ import annotations

import sqlite3
from functools import partial

from appliance.store.database import Database

MOST_OPEN = 50_000
"""Of all devices together."""
LOAD_ROWS = 1000


class PacketIds:
    """The table ``qos2_open``. Call :meth:`load` once, before the first device logs in."""

    def __init__(self, database: Database) -> None:
        self.total = 0
        """How many are open."""
        self._database = database
        self._found: dict[str, dict[bytes, bytes]] = {}

    async def load(self) -> None:
        """Read what was open when the appliance ended."""
        after = ("", -1)
        while page := await self._database.run(partial(_load, after=after)):
            for device, packet_id, digest in page:
                self._found.setdefault(device, {})[packet_id.to_bytes(2, "big")] = digest
            self.total += len(page)
            after = page[-1][:2]

    def found(self, device: str) -> dict[bytes, bytes]:
        """What was open when the appliance ended: the message's digest by packet id. Told once."""
        return self._found.pop(device, {})

    @property
    def full(self) -> bool:
        """Whether no more can be taken."""
        return self.total >= MOST_OPEN

    def open(self, receipt: object, device: str, packet_id: bytes, digest: bytes) -> None:
        """Insert it in the transaction of what will be stored with ``receipt``, which must be handed over next."""
        self.total += 1
        values = (device, int.from_bytes(packet_id, "big"), digest, device)
        self._database.join(receipt, lambda connection: _insert(connection, values))

    def undo(self, receipt: object) -> None:
        """What was announced with this receipt will not be handed over, or could not be stored."""
        self.total -= 1
        self._database.part(receipt)

    def release(self, receipt: object, device: str, packet_id: bytes, *, known: bool) -> None:
        """Delete it; ``receipt`` comes back after the commit. ``known``: it was open as far as memory knows."""
        self.total -= known
        values = (device, int.from_bytes(packet_id, "big"))
        self._database.submit(lambda connection: _delete(connection, values), receipt=receipt)

    def clear(self, device: str, count: int) -> None:
        """Delete all of a device's: its session has ended. ``count`` is how many memory knew, beside those found."""
        count += len(self._found.pop(device, ()))
        self.total -= count
        if count:
            clearing = self._database.submit(lambda connection: _clear(connection, device))
            # nobody waits; what stays because of a sick disk is only compared with what is sent again
            clearing.add_done_callback(lambda future: future.cancelled() or future.exception())


def _load(connection: sqlite3.Connection, after: tuple[str, int]) -> list[tuple[str, int, bytes]]:
    return connection.execute(
        "SELECT device, packet_id, digest FROM qos2_open WHERE (device, packet_id) > (?, ?)"
        " ORDER BY device, packet_id LIMIT ?",
        (*after, LOAD_ROWS),
    ).fetchall()


def _insert(connection: sqlite3.Connection, values: tuple[str, int, bytes, str]) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO qos2_open (device, packet_id, digest)"
        " SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM devices WHERE device_id = ?)",
        values,
    )


def _delete(connection: sqlite3.Connection, values: tuple[str, int]) -> None:
    connection.execute("DELETE FROM qos2_open WHERE device = ? AND packet_id = ?", values)


def _clear(connection: sqlite3.Connection, device: str) -> None:
    connection.execute("DELETE FROM qos2_open WHERE device = ?", (device,))
