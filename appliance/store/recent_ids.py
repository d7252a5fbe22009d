"""The last 1,000 message ids of each device, so that a repeat is stored once, also across restarts.

A device's ids are one string of 8-byte digests, oldest first: 8 kB per device, searched with ``bytes.find``. The
digest stands in the message's row as well (``msg_key``), so the strings are written only now and then: what came after
the last writing is read back from the rows. All of it runs in the writer thread.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from hashlib import blake2b

REMEMBERED = 1000
DIGEST_BYTES = 8
CACHED_DEVICES = 10_000
WRITE_AFTER_IDS = 250
WRITE_AFTER_ROWS = 20_000
"""At most this many rows are read back when the file is opened."""


def digest(msg_id: str) -> int:
    """A message id as the signed 64-bit number that the row keeps."""
    return int.from_bytes(blake2b(msg_id.encode(), digest_size=DIGEST_BYTES).digest(), "big", signed=True)


class _Ring:
    __slots__ = ("digests", "first_unwritten_seq", "unwritten")

    def __init__(self, digests: bytes) -> None:
        self.digests = digests
        self.unwritten = 0
        self.first_unwritten_seq = 0

    def holds(self, key: bytes) -> bool:
        position = self.digests.find(key)
        while position >= 0 and position % DIGEST_BYTES:
            position = self.digests.find(key, position + 1)
        return position >= 0


class RecentIds:
    """Which message ids were seen. A digest of two different ids is the same once in 10^16 messages."""

    def __init__(self) -> None:
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        self._dirty: dict[str, _Ring] = {}

    def is_repeat(self, connection: sqlite3.Connection, device: str, key: int, seq: int) -> bool:
        """Whether the device's last 1,000 ids hold this one; if not, it is the newest from now on."""
        ring = self._ring(connection, device)
        packed = key.to_bytes(DIGEST_BYTES, "big", signed=True)
        if ring.holds(packed):
            return True
        ring.digests = (ring.digests + packed)[-REMEMBERED * DIGEST_BYTES :]
        if not ring.unwritten:
            ring.first_unwritten_seq = seq
            self._dirty[device] = ring
        ring.unwritten += 1
        return False

    def write(self, connection: sqlite3.Connection, last_seq: int, *, through: int = 0) -> int:
        """Write the strings that have changed much or long ago, and all that rows up to ``through`` have changed.

        Returns the ``seq`` up to which all are written.
        """
        through = max(through, last_seq - WRITE_AFTER_ROWS // 2)
        for device, ring in list(self._dirty.items()):
            if ring.first_unwritten_seq <= through or ring.unwritten >= WRITE_AFTER_IDS:
                self._write_ring(connection, device, ring)
        return min((ring.first_unwritten_seq - 1 for ring in self._dirty.values()), default=last_seq)

    def forget(self, connection: sqlite3.Connection, device: str, written_up_to: int) -> None:
        """The device id belongs to another machine from now on, whose ids may begin anew: none of the former's counts.

        Also in the rows that would be read back; they are few, see :data:`WRITE_AFTER_ROWS`.
        """
        ring = self._ring(connection, device)
        if ring.digests:
            ring.digests = b""
            self._write_ring(connection, device, ring)
            connection.execute(
                "UPDATE messages SET msg_key = NULL WHERE seq > ? AND device = ? AND msg_key IS NOT NULL",
                (written_up_to, device),
            )

    def restore(self, connection: sqlite3.Connection, written_up_to: int) -> None:
        """Forget what is in memory and read back what the rows hold beyond ``written_up_to``."""
        self._rings.clear()
        self._dirty.clear()
        rows = connection.execute(
            "SELECT seq, device, msg_key FROM messages WHERE seq > ? AND msg_key IS NOT NULL ORDER BY seq",
            (written_up_to,),
        )
        for seq, device, key in rows.fetchall():
            self.is_repeat(connection, device, key, seq)

    def _write_ring(self, connection: sqlite3.Connection, device: str, ring: _Ring) -> None:
        connection.execute(
            "INSERT INTO recent_ids (device, digests) VALUES (?, ?)"
            " ON CONFLICT (device) DO UPDATE SET digests = excluded.digests",
            (device, ring.digests),
        )
        ring.unwritten = 0
        self._dirty.pop(device, None)

    def _ring(self, connection: sqlite3.Connection, device: str) -> _Ring:
        ring = self._rings.get(device)
        if ring is not None:
            self._rings.move_to_end(device)
            return ring
        found = connection.execute("SELECT digests FROM recent_ids WHERE device = ?", (device,)).fetchone()
        ring = self._rings[device] = _Ring(found[0] if found else b"")
        if len(self._rings) > CACHED_DEVICES:
            oldest, dropped = self._rings.popitem(last=False)
            if dropped.unwritten:
                self._write_ring(connection, oldest, dropped)
        return ring
