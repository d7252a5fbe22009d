"""What may happen to Odoo's database as a whole: it is put back to a backup, or copied under another identity."""

from __future__ import annotations

import sqlite3
import uuid

from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.state import State

MOST_SNAPSHOTS = 10


class Snapshots:
    """Backups of the stand-in's memory; they live as long as the process."""

    def __init__(self, *, state: State) -> None:
        self._state = state
        self._kept: dict[str, sqlite3.Connection] = {}

    def take(self, name: str) -> None:
        """Make a backup; one of the same name is replaced."""
        if name not in self._kept and len(self._kept) >= MOST_SNAPSHOTS:
            raise RefusalError(409, "too_many", f"{MOST_SNAPSHOTS} snapshots are kept")
        copy = sqlite3.connect(":memory:", check_same_thread=False)
        self._state.connection.backup(copy)
        before = self._kept.pop(name, None)
        if before is not None:
            before.close()
        self._kept[name] = copy

    def restore(self, name: str) -> None:
        """Put the whole memory back to a backup, identity and all."""
        if name not in self._kept:
            raise RefusalError(404, "unknown_snapshot", "no such snapshot")
        self._kept[name].backup(self._state.connection)

    def become_a_copy(self, database_uuid: str | None = None) -> dict[str, str]:
        """Go on as a copy of this database, under another identity (or, named, under an earlier one again)."""
        before = self._state.meta("database_uuid")
        self._state.set_meta("database_uuid", database_uuid or str(uuid.uuid4()))
        return {"before": before, "database": self._state.meta("database_uuid")}

    def close(self) -> None:
        """Let go of the backups."""
        for copy in self._kept.values():
            copy.close()
        self._kept.clear()
