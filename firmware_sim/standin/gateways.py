"""Gateways as Odoo knows them: which copy of an appliance is the active one, and what it has told with its syncs.

An appliance names its present epoch and this start of its process in each ``sync``, and that start in each batch. The
start of the last answered sync is the active one. An epoch that was never heard of becomes the active one of its
gateway, and the one before it is retired: whoever still presents that is a copy that was left behind, and is fenced.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from appliance.contract.sync import FENCED, MOST_STARTS, WRONG_DATABASE, EpochReport, SyncRequest
from appliance.contract.times import Clock, rfc3339
from firmware_sim.standin.device_feed import DeviceFeed
from firmware_sim.standin.pending import PendingWork
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.state import State
from firmware_sim.standin.told import Told, knows_less

STARTS_KEPT = 1000
"""Of each gateway."""


class Gateways:
    """Answers ``sync`` and says which batches may be taken."""

    def __init__(self, *, state: State, feed: DeviceFeed, work: PendingWork, clock: Clock | None = None) -> None:
        self._state = state
        self._feed = feed
        self._work = work
        self._clock = clock or Clock()
        self.limits: dict[str, int] = {}
        """The largest batch, as far as one is told: ``messages`` and ``body_bytes``."""
        self.interval_s: float | None = None

    def sync(self, body: object, *, key_of: str | None = None) -> dict[str, Any]:
        """The answer to ``POST /iiot/gateway/sync``; ``key_of`` is the gateway that the key was made for."""
        try:
            request = SyncRequest.model_validate(body)
        except ValidationError as error:
            detail = error.errors()[0]
            place = ".".join(str(step) for step in detail["loc"])
            raise RefusalError(422, "bad_request", f"{place}: {detail['msg']}") from None
        if key_of is not None and key_of != request.gateway:
            raise RefusalError(403, "wrong_gateway", "this key is another gateway's")
        self._check_database(request.database_uuid)
        known = [known for report in request.epochs if (known := self._known(request.gateway, report))]
        with self._state.transaction():
            self._admit(request, known)
            admission = self._note(request)
        work = self._work.offer(request.gateway)
        devices = self._feed.since(request.gateway, request.cursor)
        answer = {
            "database_uuid": self._state.meta("database_uuid"),
            "admission": admission,
            "time": rfc3339(self._clock.now_ms()),
            "known": known,
            **work,
            **devices,
            "more": work["more"] or devices["more"],
            "limits": self.limits,
        }
        return answer if self.interval_s is None else {**answer, "interval_s": self.interval_s}

    def check_batch(self, body: Mapping[str, Any], body_bytes: int) -> None:
        """409 for a batch that is meant for another database, or that comes from a copy that is not the active one.

        A batch that names neither, from an appliance that never speaks ``sync``, is taken. 413: larger than was told.
        """
        messages = body.get("messages")
        count = len(messages) if isinstance(messages, list) else 0
        if body_bytes > self.limits.get("body_bytes", body_bytes) or count > self.limits.get("messages", count):
            raise RefusalError(413, "too_large", f"larger than {self.limits}")
        self.check_copy(str(body.get("gateway")), start=body.get("start"), database_uuid=body.get("database_uuid"))

    def check_copy(self, gateway: str, *, start: object, database_uuid: object) -> None:
        """409 for what is meant for another database, or comes from a copy that is not the active one."""
        self._check_database(database_uuid)
        row = self._state.row("SELECT admission FROM gateways WHERE gateway = ?", gateway)
        if start is not None and row is not None and row[0] != start:
            raise RefusalError(409, FENCED, "another start of this appliance is the active one: sync first")

    def has_work(self, gateway: str) -> bool:
        """Whether a sync would bring something new: ``work`` in the answer to a batch."""
        row = self._state.row("SELECT cursor FROM gateways WHERE gateway = ?", gateway)
        return row is not None and (self._work.has_new(gateway) or self._feed.has_news(row[0]))

    def fence(self, gateway: str) -> None:
        """As if another copy of this appliance had taken over: what it presents now is retired."""
        with self._state.transaction() as connection:
            changed = connection.execute(
                "UPDATE gateways SET epoch = 'taken over', start = 'taken over', admission = '-' WHERE gateway = ?",
                (gateway,),
            )
            if not changed.rowcount:
                raise RefusalError(404, "unknown_gateway", "no such gateway")
            connection.execute("UPDATE epochs SET retired = 1 WHERE gateway = ?", (gateway,))

    def all(self) -> list[dict[str, Any]]:
        """Every gateway with its last report, and what is known of its epochs."""
        return [
            {
                "gateway": gateway,
                "epoch": epoch,
                "start": start,
                "cursor": cursor,
                "synced_at": rfc3339(synced_at_ms),
                "report": json.loads(report),
                "epochs": [
                    {"epoch": row[0], "floor": row[1], "highest": row[2], "stored": row[3], "retired": bool(row[4])}
                    for row in self._state.rows(
                        "SELECT epoch, floor, highest, stored, retired FROM epochs WHERE gateway = ? ORDER BY rowid",
                        gateway,
                    )
                ],
            }
            for gateway, epoch, start, cursor, synced_at_ms, report in self._state.rows(
                "SELECT gateway, epoch, start, cursor, synced_at_ms, report FROM gateways ORDER BY gateway"
            )
        ]

    def _check_database(self, named: object) -> None:
        own = self._state.meta("database_uuid")
        if named is not None and named != own:
            raise RefusalError(
                409, WRONG_DATABASE, "this appliance is bound to another database, is this a copy?", database_uuid=own
            )

    def _admit(self, request: SyncRequest, known: list[dict[str, Any]]) -> None:
        """Make the present epoch the active one; 409 for one that is no more."""
        connection, gateway, present = self._state.connection, request.gateway, request.epochs[0].epoch
        row = self._state.row("SELECT retired FROM epochs WHERE gateway = ? AND epoch = ?", gateway, present)
        if row == (1,):
            raise RefusalError(409, FENCED, "another copy of this appliance has taken its place", known=known)
        connection.execute(
            "UPDATE epochs SET retired = 1 WHERE gateway = ?1 AND epoch <> ?2 "
            "AND epoch = (SELECT epoch FROM gateways WHERE gateway = ?1)",
            (gateway, present),
        )
        connection.execute(
            "INSERT OR IGNORE INTO epochs (gateway, epoch, floor, highest) VALUES (?, ?, 0, 0)", (gateway, present)
        )

    def _known(self, gateway: str, report: EpochReport) -> dict[str, Any] | None:
        row = self._state.row(
            "SELECT floor, highest, stored, below FROM epochs WHERE gateway = ? AND epoch = ?", gateway, report.epoch
        )
        starts = self._state.rows(
            "SELECT start, first_seq, previous, highest, synced FROM starts WHERE gateway = ? AND epoch = ? "
            "ORDER BY number DESC LIMIT ?",
            *(gateway, report.epoch, MOST_STARTS),
        )
        if row is None or not (starts or row[1]):
            return None
        return {
            "epoch": report.epoch,
            "floor": row[0],
            "highest_seq": row[1],
            "stored": row[2],
            "below": row[3],
            "behind": knows_less(
                self._state,
                gateway,
                report.epoch,
                Told(floor=report.floor, settled=report.settled, stored=report.stored, below=report.below),
            ),
            "last_start": max(starts, key=lambda start: start[4])[0] if starts else None,
            "starts": [
                {"start": start, "first_seq": first_seq, "previous": previous, "highest_seq": highest}
                for start, first_seq, previous, highest, _ in reversed(starts)
            ],
        }

    def _note(self, request: SyncRequest) -> str:
        """Remember what was reported; the admission of this start."""
        connection, gateway, epoch = self._state.connection, request.gateway, request.epochs[0].epoch
        row = self._state.row("SELECT start, epoch, admission FROM gateways WHERE gateway = ?", gateway)
        same = row is not None and row[:2] == (request.start, epoch)
        admission = str(row[2]) if row is not None and same else secrets.token_hex(8)
        connection.executemany(
            "INSERT OR IGNORE INTO starts (gateway, epoch, start, first_seq, previous) VALUES (?, ?, ?, ?, ?)",
            [(gateway, epoch, start.start, start.first_seq, start.previous) for start in request.starts],
        )
        connection.execute(
            "UPDATE starts SET synced = (SELECT max(synced) + 1 FROM starts) "
            "WHERE gateway = ? AND epoch = ? AND start = ?",
            (gateway, epoch, request.start),
        )
        connection.execute(
            "DELETE FROM starts WHERE gateway = ?1 AND number <= (SELECT number FROM starts WHERE gateway = ?1 "
            "ORDER BY number DESC LIMIT 1 OFFSET ?2)",
            (gateway, STARTS_KEPT),
        )
        connection.execute(
            "INSERT OR REPLACE INTO gateways (gateway, epoch, start, cursor, synced_at_ms, report, admission) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (gateway, epoch, request.start, request.cursor, self._clock.now_ms(), request.model_dump_json(), admission),
        )
        return admission
