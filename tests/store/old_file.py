"""Writes a file of the present version as text: ``python -m tests.store.old_file > tests/store/files/v1.sql``.

Done once for a version, when it is released; from then on the text is what tests of later versions open.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from appliance.store.buffer import Rejection
from appliance.store.schema import APPLICATION_ID
from tests.store.support import ManualClock, open_store

EPOCH = "11111111-2222-4333-8444-555555555555"


async def make(folder: Path) -> Path:
    """Five readings: one settled, one parked, one a repeat, two waiting."""
    store = await open_store(folder, clock=ManualClock())
    await store.add(1, 2, msg_id=None)
    await store.add(3, device="press-08", msg_id="m-3", at_ms=1_789_999_999_000, flags=1)
    await store.add(4, device="press-08", msg_id="m-3")
    await store.add(5)
    await store.buffer.settle([1], [Rejection(2, "invalid", "no such field")])
    await store.close()
    return store.database.path


def dump(path: Path) -> Iterator[str]:
    """The file as statements that make it again, without what is different each time."""
    yield "PRAGMA auto_vacuum = 2;"
    yield f"PRAGMA application_id = {APPLICATION_ID};"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (EPOCH,))
        connection.execute("UPDATE _sqlite_migrations SET applied_at = '2026-11-22 10:00:00.000000+00:00'")
    yield from connection.iterdump()
    connection.close()


def restore(text: str, path: Path) -> None:
    """Make a database file of a dump."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(text)
    connection.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(dump(asyncio.run(make(Path(folder) / "data")))))
