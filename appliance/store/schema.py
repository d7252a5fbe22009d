"""Tables of the database file and their migrations.

A migration that has been released is never edited; a change of the schema is a new one below it.

Going back to the version before must lose nothing, so it goes on with the very file that the newer one has changed: a
migration adds (tables, indexes, columns that are NULL or have a default) and what was there keeps its meaning. What has
become useless is removed a version later at the earliest, by a migration that :data:`NEEDS` then names.
"""

from __future__ import annotations

import sqlite3
from uuid import uuid4

from sqlite_utils import Database as Tables
from sqlite_utils import Migrations

APPLICATION_ID = 0x49496F54  # "IIoT", so that `file` and we ourselves recognise the database
migrations = Migrations("appliance")
NEEDS = "m008_updates"
"""The last migration that is more than an addition: a version that does not know it must not touch the file."""
_NEEDS_KEY = "needs"


@migrations()
def m001_first_schema(tables: Tables) -> None:
    """Buffer, parked messages, ledger, outbox, devices."""
    for statement in _FIRST_SCHEMA.split(";\n"):
        if statement.strip():
            tables.execute(statement)
    tables.execute("INSERT INTO meta (key, value) VALUES ('epoch', ?)", [str(uuid4())])


@migrations()
def m002_api_keys(tables: Tables) -> None:
    """Named keys of the HTTP API."""
    tables.execute(_API_KEYS)


@migrations()
def m003_device_configurations(tables: Tables) -> None:
    """What each device was told and has taken, its earlier topics, rotations; changes that wait for their device."""
    for column in (
        "paired_generation INTEGER NOT NULL DEFAULT 0",
        "secret_version INTEGER NOT NULL DEFAULT 0",
        "told TEXT",
        "taken TEXT",
        "topics TEXT",
        "earlier TEXT",
    ):
        tables.execute(f"ALTER TABLE devices ADD COLUMN {column}")
    tables.execute("UPDATE devices SET paired_generation = generation")
    tables.execute(
        """
        CREATE TABLE changes_aside (              -- changes from Odoo that cannot be applied yet, one for a device id
            device_id TEXT PRIMARY KEY,
            change TEXT NOT NULL,                 -- DeviceChange as JSON
            reason TEXT,                          -- why it was refused; NULL: no such device is paired here
            at_ms INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """
    )


@migrations()
def m004_presence(tables: Tables) -> None:
    """How each device was connected last. A row goes with its device; bounded by the number of paired devices."""
    tables.execute(
        """CREATE TABLE presence (
            device TEXT PRIMARY KEY,
            online INTEGER NOT NULL,
            since_ms INTEGER NOT NULL,
            code TEXT,                            -- OfflineCode; NULL while online
            detail TEXT NOT NULL,
            address TEXT,
            connects INTEGER NOT NULL,
            takeovers INTEGER NOT NULL,
            last_seen_ms INTEGER,
            last_telemetry_ms INTEGER,
            told_online INTEGER,                  -- what Odoo was told last; NULL: nothing yet
            told_connects INTEGER NOT NULL,
            told_takeovers INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID"""
    )
    tables.execute(
        "CREATE TRIGGER presence_goes_with_its_device AFTER DELETE ON devices"
        " BEGIN DELETE FROM presence WHERE device = OLD.device_id; END"
    )


@migrations()
def m005_epochs(tables: Tables) -> None:
    """Several epochs in a file, what is settled though Odoo does not have it, and where the other kinds stand."""
    for statement in _EPOCHS.split(";\n"):
        if statement.strip():
            tables.execute(statement)


@migrations()
def m006_standing(tables: Tables) -> None:
    """How the appliance stands to Odoo: its starts, the database it is bound to, what Odoo has lost."""
    for statement in _STANDING.split(";\n"):
        if statement.strip():
            tables.execute(statement)


@migrations()
def m007_qos2_open(tables: Tables) -> None:
    """QoS 2 messages of devices that were taken and not released; at most ``packet_ids.MOST_OPEN``."""
    tables.execute(
        """CREATE TABLE qos2_open (
            device TEXT NOT NULL,
            packet_id INTEGER NOT NULL,
            digest BLOB NOT NULL,                 -- of topic and payload, to tell a repeat from another message
            PRIMARY KEY (device, packet_id)
        ) STRICT, WITHOUT ROWID"""
    )
    tables.execute(
        "CREATE TRIGGER qos2_open_goes_with_its_device AFTER DELETE ON devices"
        " BEGIN DELETE FROM qos2_open WHERE device = OLD.device_id; END"
    )


@migrations()
def m008_updates(tables: Tables) -> None:
    """Firmware updates of devices."""
    for statement in _UPDATES.split(";\n"):
        tables.execute(statement)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to this version's schema; each migration is one transaction."""
    migrations.apply(Tables(connection))
    if not unknown_migrations(connection) and _needs(connection) != NEEDS:
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_NEEDS_KEY, NEEDS))


def knows(migration: str) -> bool:
    """Whether this version has the migration: then it can go on with a file that needs it."""
    return any(migration == known.name for known in migrations._migrations)


def unknown_migrations(connection: sqlite3.Connection) -> list[str]:
    """Migrations in the file that this version does not know: the file is from a newer one."""
    applied = migrations.applied(Tables(connection))
    return [migration.name for migration in applied if not knows(migration.name)]


def only_adds(connection: sqlite3.Connection) -> bool:
    """Whether the newer version that wrote the file says that an older one may go on with it."""
    needs = _needs(connection)
    return needs is not None and knows(needs)


def _needs(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_NEEDS_KEY,)).fetchone()
    return None if row is None else str(row[0])


_FIRST_SCHEMA = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (                       -- append-only; AUTOINCREMENT, so that a seq is never used twice
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    device TEXT NOT NULL,
    kind INTEGER NOT NULL,
    at_ms INTEGER,                            -- the device's own time where it may be used
    received_at_ms INTEGER NOT NULL,
    flags INTEGER NOT NULL,                   -- ClockFlag
    msg_key INTEGER,                          -- 64-bit digest of msg_id
    payload BLOB NOT NULL,
    crc INTEGER NOT NULL                      -- CRC-32 over device, kind, times, flags, payload; exclusive-or seq
) STRICT;

CREATE TABLE settled (                        -- disjoint intervals of seq that Odoo has, or that were parked
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT;

CREATE TABLE settled_marks (                  -- when all was settled up to which seq
    up_to INTEGER PRIMARY KEY,
    steady_ms INTEGER NOT NULL                -- passes only while the appliance runs
) STRICT;

CREATE TABLE parked (                         -- what Odoo or the contract refused, with the reason
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    seq INTEGER,                              -- NULL where it never was a message (not JSON)
    device TEXT NOT NULL,
    kind INTEGER NOT NULL,
    at_ms INTEGER,
    received_at_ms INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    messages INTEGER NOT NULL,                -- more than one where a stretch of them is gone from the file
    retryable INTEGER NOT NULL,               -- whether it is a whole message that can be sent again
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    parked_at_ms INTEGER NOT NULL,
    payload BLOB NOT NULL                     -- last, so that the rest is read without it
) STRICT;

CREATE TABLE removals (                       -- parked messages that were removed for good, counted
    device TEXT NOT NULL,
    kind INTEGER NOT NULL,
    reason TEXT NOT NULL,                     -- 'operator', or 'limit' where the list was full
    count INTEGER NOT NULL,
    last_at_ms INTEGER NOT NULL,
    PRIMARY KEY (device, kind, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE recent_ids (                     -- the last 1,000 msg_id digests of a device, 8 bytes each, oldest first
    device TEXT PRIMARY KEY,
    digests BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger (                         -- readings per device, counted up to meta.counted_seq
    device TEXT PRIMARY KEY,
    received INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,
    parked INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0,       -- of those that were parked
    refused INTEGER NOT NULL DEFAULT 0,
    repeated INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE refusals (                       -- publishes that were acknowledged and dropped, and why
    device TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    last_at_ms INTEGER NOT NULL,
    last_topic TEXT NOT NULL,
    PRIMARY KEY (device, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (                         -- commands; position is the order of delivery
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    command_id TEXT NOT NULL UNIQUE,
    device TEXT NOT NULL,
    action TEXT NOT NULL,
    digest BLOB NOT NULL,                     -- of the request, to tell a repeat from a contradiction
    payload BLOB NOT NULL,                    -- emptied when the command is settled
    at_most_once INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,           -- wall clock
    expires_in_ms INTEGER NOT NULL,
    response_limit_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    deliveries INTEGER NOT NULL,              -- counted before the bytes go out
    deadline_ms INTEGER NOT NULL,             -- steady clock: end of waiting for delivery, or for the answer
    touched_ms INTEGER NOT NULL,              -- steady clock: last change
    settled_ms INTEGER,                       -- steady clock; NULL while the command is open
    response BLOB,                            -- the last answer, if it is short
    response_bytes INTEGER,                   -- its size
    history TEXT NOT NULL                     -- JSON objects, one per change, separated by commas
) STRICT;

CREATE INDEX outbox_open ON outbox (device, position) WHERE settled_ms IS NULL;

CREATE INDEX outbox_settled ON outbox (settled_ms) WHERE settled_ms IS NOT NULL;

CREATE TABLE devices (
    device_id TEXT PRIMARY KEY,
    serial TEXT NOT NULL UNIQUE,
    generation INTEGER NOT NULL,              -- of the secret
    valid_from INTEGER NOT NULL,              -- the oldest generation whose secret still opens the door
    login_generation INTEGER NOT NULL,        -- the newest generation that has logged in, 0 if none has
    enabled INTEGER NOT NULL,
    config TEXT NOT NULL,                     -- DeviceConfig as JSON
    firmware_version TEXT,
    hardware TEXT,
    paired_at_ms INTEGER NOT NULL,
    first_login_at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE retired_devices (                -- ids that lost their device: their generations are never used again
    device_id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE pairings (                       -- claims by token, so that a repeated request gets the same answer
    serial TEXT NOT NULL,
    token_digest BLOB NOT NULL,               -- keyed SHA-256
    request_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    paired_at_ms INTEGER NOT NULL,
    PRIMARY KEY (serial, token_digest)
) STRICT, WITHOUT ROWID
"""

_API_KEYS = """
CREATE TABLE api_keys (                       -- at most 100
    key_id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    digest BLOB NOT NULL,                     -- SHA-256 of the key
    created_at_ms INTEGER NOT NULL,
    last_used_at_ms INTEGER                   -- written rarely
) STRICT, WITHOUT ROWID
"""

_EPOCHS = """
CREATE TABLE epochs (                         -- names under which messages of this file are known to Odoo
    epoch TEXT PRIMARY KEY,
    confirmed INTEGER NOT NULL,               -- the highest seq that Odoo has confirmed
    stored INTEGER NOT NULL                   -- how many messages it has confirmed
) STRICT, WITHOUT ROWID;

CREATE TABLE epoch_parts (                    -- from which seq on which epoch holds; the last one is the present
    first_seq INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL
) STRICT;

CREATE TABLE unstored (                       -- intervals of settled seqs that Odoo does not have: parked or lost
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT;

CREATE TABLE ordered (                        -- unsettled messages of all kinds but telemetry
    seq INTEGER PRIMARY KEY
) STRICT;

INSERT INTO epochs
    SELECT value, coalesce((SELECT value FROM meta WHERE key = 'confirmed'), 0), (SELECT total(stored) FROM ledger)
    FROM meta WHERE key = 'epoch';
INSERT INTO epoch_parts SELECT 1, value FROM meta WHERE key = 'epoch';
INSERT INTO unstored SELECT seq, max(seq + messages - 1) FROM parked WHERE seq IS NOT NULL GROUP BY seq;
INSERT INTO meta SELECT 'unstored', count(*) FROM unstored;
INSERT INTO ordered SELECT seq FROM messages
    WHERE kind <> 1 AND NOT EXISTS (SELECT 1 FROM settled WHERE seq BETWEEN first AND last);
DELETE FROM meta WHERE key = 'confirmed'
"""

_STANDING = """
CREATE TABLE starts (                         -- of the process, in this very file: one that is not here was a twin's
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    start TEXT NOT NULL UNIQUE,
    first_seq INTEGER NOT NULL,               -- the first message it could have stored
    answered INTEGER NOT NULL                 -- whether Odoo has answered a sync of it
) STRICT;

CREATE TABLE standing (                       -- database_uuid, cursor, gaps, consents, may_take_over
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""

_UPDATES = """
CREATE TABLE updates (                        -- firmware updates; settled ones go by age and number
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    update_id TEXT NOT NULL UNIQUE,
    device TEXT NOT NULL,
    action TEXT NOT NULL,
    digest BLOB NOT NULL,                     -- of the request, to tell a repeat from a contradiction
    params TEXT NOT NULL,                     -- JSON, as ordered
    sha256 TEXT,                              -- of the file; NULL until it is known
    size INTEGER,
    created_at_ms INTEGER NOT NULL,           -- wall clock
    state TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    progress REAL,                            -- percent, as the device said
    from_device INTEGER NOT NULL,             -- whether the device has said how it ended
    acknowledged INTEGER NOT NULL,            -- PUBACK of what the device was sent last
    deliveries INTEGER NOT NULL,              -- of that, counted before the bytes go out
    link_expires_ms INTEGER,                  -- steady clock
    deadline_ms INTEGER NOT NULL,             -- steady clock: end of the present state
    touched_ms INTEGER NOT NULL,              -- steady clock: last change
    settled_ms INTEGER,                       -- steady clock; NULL while the update is open
    new_version TEXT,                         -- to be written to the device's row
    history TEXT NOT NULL                     -- JSON objects, one per change, separated by commas
) STRICT;

CREATE UNIQUE INDEX updates_open ON updates (device) WHERE settled_ms IS NULL;

CREATE INDEX updates_settled ON updates (settled_ms) WHERE settled_ms IS NOT NULL;

CREATE INDEX updates_to_note ON updates (position) WHERE new_version IS NOT NULL
"""
