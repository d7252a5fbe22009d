"""Which failures of the database have nothing to do with what was asked of it."""

from __future__ import annotations

import psycopg2

_CLASSES = ("08", "40", "53", "55", "57")
"""Connection, rollback (serialization, deadlock), resources, locks, operator (time-out, shutdown)."""


def is_transient(error: BaseException) -> bool:
    """Whether the same may succeed a moment later, on a fresh snapshot or a new connection."""
    if not isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)):
        return False
    return error.pgcode is None or error.pgcode.startswith(_CLASSES)
