"""What arrives from appliances: batches with receipts, so that each message takes effect exactly once.

The order of things is the contract's ("Exactly once"): an Odoo that knows less than the appliance was told answers
``behind`` before it moves its floor; what lies below the floor is a duplicate; a receipt is kept in the transaction of
the effect, and for stored messages only.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from typing import Any

from pydantic_core import to_json

from appliance.contract.odoo import CONTRACT_VERSION, Kind
from appliance.contract.times import AHEAD_TOLERANCE_MS, parse_rfc3339
from firmware_sim.standin.faults import Faults
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.state import State
from firmware_sim.standin.told import Told, knows_less

KIND_NAMES = frozenset(kind.wire for kind in Kind)
LANES = frozenset(("live", "backlog"))
MAX_BATCH = 5000
MAX_SEQ = 2**62

Result = dict[str, Any]


class Inbox:
    """Takes batches and single messages. ``keep_effects`` bounds the log of what arrived: the oldest go first."""

    def __init__(self, *, state: State, faults: Faults, keep_effects: int = 5_000_000) -> None:
        self._state = state
        self._faults = faults
        self._keep_effects = keep_effects
        self._since_pruned = 0
        self.answers: Counter[str] = Counter()
        """Results given since the start, by status."""

    def accept_batch(self, body: object) -> list[Result]:
        """A result per message, all in one transaction. ``RefusalError`` refuses the batch and leaves no trace."""
        if not isinstance(body, dict):
            raise RefusalError(422, "bad_request", "the body must be an object")
        if body.get("contract") != CONTRACT_VERSION:
            raise RefusalError(422, "bad_request", f"this side speaks contract {CONTRACT_VERSION}")
        gateway, epoch = _text(body, "gateway"), _text(body, "epoch")
        floor, settled = _count(body, "floor"), _count(body, "settled")
        told = Told(
            floor=floor,
            settled=settled,
            stored=_count(body, "stored") if "stored" in body else 0,
            below=_count(body, "below") if "below" in body else 0,
        )
        messages = body.get("messages")
        if not isinstance(messages, list) or len(messages) > MAX_BATCH:
            raise RefusalError(422, "bad_request", f"messages must be a list of at most {MAX_BATCH}")
        for message in messages:
            if not isinstance(message, dict) or not _is_seq(message.get("seq")):
                raise RefusalError(422, "bad_request", "every message needs a seq")
        with self._state.transaction() as connection:
            results = self._accept(connection, gateway, epoch, told, messages)
        self.answers.update(result["status"] for result in results)
        self._prune()
        return results

    def accept_single(self, device: str, message: object) -> Result:
        """One message of ``POST /iiot/webhook/<device_id>``; it has no receipt, the caller must not repeat it."""
        if not isinstance(message, dict):
            raise RefusalError(422, "bad_request", "the body must be an object")
        with self._state.transaction() as connection:
            if not self._knows(device):
                raise RefusalError(404, "unknown_device", "no such device")
            effects = _Effects()
            result = self._judge({**message, "device": device, "seq": 0})
            if result is None:
                effects.add((None, None, None), message | {"device": device})
                effects.write(connection)
                result = {"status": "stored"}
        if result["status"] == "rejected":
            raise RefusalError(422, str(result["code"]), str(result["message"]))
        self.answers[result["status"]] += 1
        return result

    def _accept(
        self,
        connection: sqlite3.Connection,
        gateway: str,
        epoch: str,
        told: Told,
        messages: list[dict[str, Any]],
    ) -> list[Result]:
        row = self._state.row(
            "SELECT floor, highest, below FROM epochs WHERE gateway = ? AND epoch = ?", gateway, epoch
        )
        known_floor, highest, below = row or (0, 0, 0)
        if knows_less(self._state, gateway, epoch, told):
            raise RefusalError(
                409, "behind", "this database knows less than you were told", highest=highest, floor=known_floor
            )
        floor = max(told.floor, known_floor)
        effects = _Effects()
        results: list[Result] = []
        held: set[str] = set()
        for message in messages:
            seq = message["seq"]
            if seq < floor:
                highest = max(highest, seq)  # a duplicate is a confirmation too
                results.append({"seq": seq, "status": "duplicate"})
                continue
            ordered = message.get("kind") != Kind.TELEMETRY.wire
            # what a device said in an order must not take effect in another
            judged = _retry(seq) if ordered and message.get("device") in held else self._judge(message)
            if judged is not None and self._has(gateway, epoch, seq):
                judged = {"seq": seq, "status": "duplicate"}  # its answer was lost: it must not be parked as well
            if judged is not None:
                if ordered and judged["status"] == "retry":
                    held.add(message["device"])
                results.append(judged)
                continue
            inserted = connection.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)", (gateway, epoch, seq))
            highest = max(highest, seq)
            if not inserted.rowcount:
                results.append({"seq": seq, "status": "duplicate"})
                continue
            results.append({"seq": seq, "status": "stored"})
            for _ in range(self._copies(message)):
                effects.add((gateway, epoch, seq), message)
        effects.write(connection)
        if floor > known_floor:
            below += connection.execute(
                "DELETE FROM receipts WHERE gateway = ? AND epoch = ? AND seq < ?", (gateway, epoch, floor)
            ).rowcount
        stored = sum(result["status"] == "stored" for result in results)
        connection.execute(
            "INSERT INTO epochs (gateway, epoch, floor, highest, below, stored) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (gateway, epoch) DO UPDATE SET floor = excluded.floor, highest = excluded.highest, "
            "below = excluded.below, stored = stored + excluded.stored",
            (gateway, epoch, floor, highest, below, stored),
        )
        connection.execute(
            "UPDATE starts SET highest = max(highest, ?1) WHERE gateway = ?2 AND epoch = ?3 "
            "AND start = (SELECT start FROM gateways WHERE gateway = ?2)",
            (
                max((result["seq"] for result in results if result["status"] == "stored"), default=0),
                *(gateway, epoch),
            ),
        )
        return results

    def _judge(self, message: dict[str, Any]) -> Result | None:
        """Why a message is not stored, or ``None``."""
        seq, device, kind = message["seq"], message.get("device"), message.get("kind")
        if not isinstance(device, str):
            return _rejected(seq, "invalid", "device must be a text")
        # what concerns the gateway itself bears no device's name
        if kind != Kind.GATEWAY_EVENT.wire and not self._knows(device):
            return _rejected(seq, "unknown_device", "no such device")
        if kind not in KIND_NAMES:
            return _rejected(seq, "invalid", "no such kind")
        if "payload" not in message:
            return _rejected(seq, "invalid", "payload is missing")
        if message.get("lane", "live") not in LANES:
            return _rejected(seq, "invalid", "no such lane")
        try:
            parse_rfc3339(message["at"])
            parse_rfc3339(message.get("received_at", message["at"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return _rejected(seq, "invalid", "at and received_at must be RFC 3339")
        if self._faults.take("reject", device):
            return _rejected(seq, "invalid", "rejected on request")
        if self._faults.take("retry", device):
            return _retry(seq)
        return None

    def _knows(self, device: str) -> bool:
        return self._state.row("SELECT 1 FROM devices WHERE device_id = ?", device) is not None

    def _has(self, gateway: str, epoch: str, seq: int) -> bool:
        sql = "SELECT 1 FROM receipts WHERE gateway = ? AND epoch = ? AND seq = ?"
        return self._state.row(sql, gateway, epoch, seq) is not None

    def _copies(self, message: dict[str, Any]) -> int:
        if message["kind"] == Kind.TELEMETRY.wire:
            if self._faults.take("loss", message["device"]):
                return 0
            if self._faults.take("duplicate", message["device"]):
                return 2
        return 1

    def _prune(self) -> None:
        self._since_pruned += 1
        if self._since_pruned < 200:
            return
        self._since_pruned = 0
        with self._state.transaction() as connection:
            removed = connection.execute(
                "DELETE FROM effects WHERE id <= (SELECT max(id) FROM effects) - ?", (self._keep_effects,)
            )
            if removed.rowcount:
                connection.execute("UPDATE meta SET value = '1' WHERE name = 'pruned'")


class _Effects:
    """What one batch changes, gathered and then written at once."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._latest: dict[str, tuple[int, str]] = {}
        self._commands: list[tuple[str, str, dict[str, Any]]] = []
        self._updates: list[dict[str, Any]] = []

    def add(self, receipt: tuple[str | None, str | None, int | None], message: dict[str, Any]) -> None:
        device, kind, payload, at = message["device"], message["kind"], message["payload"], message["at"]
        text = to_json(payload).decode()
        msg_id = None
        if kind == "telemetry":
            if isinstance(payload, dict) and isinstance(payload.get("msg_id"), (str, int, float)):
                msg_id = str(payload["msg_id"])
            self._note_latest(device, at, message.get("received_at", at), text)
        elif kind in ("command_state", "command_response") and isinstance(payload, dict):
            self._commands.append((device, kind, payload))
        elif kind == "ota_status" and isinstance(payload, dict):
            self._updates.append(payload)
        self._rows.append(
            (*receipt, device, kind, msg_id, at, message.get("received_at"), message.get("lane", "live"), text)
        )
        self._counts[device, kind] += 1

    def _note_latest(self, device: str, at: str, received_at: str, payload: str) -> None:
        """Late is not new, and a time far ahead of the gateway's does not count."""
        at_ms, received_at_ms = parse_rfc3339(at), parse_rfc3339(received_at)
        if at_ms > received_at_ms + AHEAD_TOLERANCE_MS:
            at_ms = received_at_ms
        if device not in self._latest or at_ms >= self._latest[device][0]:
            self._latest[device] = (at_ms, payload)

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO effects (gateway, epoch, seq, device, kind, msg_id, at, received_at, lane, payload) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._rows,
        )
        connection.executemany(
            "INSERT INTO counts VALUES (?, ?, ?) "
            "ON CONFLICT (device, kind) DO UPDATE SET messages = messages + excluded.messages",
            [(device, kind, count) for (device, kind), count in self._counts.items()],
        )
        connection.executemany(
            "INSERT INTO latest VALUES (?, ?, ?) ON CONFLICT (device) "
            "DO UPDATE SET at_ms = excluded.at_ms, payload = excluded.payload WHERE excluded.at_ms >= at_ms",
            [(device, at_ms, payload) for device, (at_ms, payload) in self._latest.items()],
        )
        connection.executemany(
            "UPDATE devices SET seen = 1 WHERE device_id = ? AND seen = 0",
            [(device,) for device in {device for device, _ in self._counts}],
        )
        for device, kind, payload in self._commands:
            _note_command(connection, device, kind, payload)
        for payload in self._updates:
            _note_update(connection, payload)


def _note_command(connection: sqlite3.Connection, device: str, kind: str, payload: dict[str, Any]) -> None:
    """Follow a command's life; one that somebody else sent through the appliance gets a row of its own."""
    command_id = payload.get("command_id")
    if not isinstance(command_id, str):
        return
    connection.execute(
        "INSERT OR IGNORE INTO commands (command_id, device, created_at_ms, state, history) "
        "VALUES (?, ?, 0, 'queued', '[]')",
        (command_id, device),
    )
    if kind == "command_response":
        connection.execute("UPDATE commands SET response = ? WHERE command_id = ?", (json.dumps(payload), command_id))
        return
    connection.execute(
        "UPDATE commands SET state = ?, history = json_insert(history, '$[#]', json(?)), waiting = NULL "
        "WHERE command_id = ?",
        (str(payload.get("state")), json.dumps(payload), command_id),
    )


def _note_update(connection: sqlite3.Connection, payload: dict[str, Any]) -> None:
    """Follow an update that was ordered here."""
    connection.execute(
        # a cancellation has arrived when a state says so; reports that were under way do not
        "UPDATE updates SET state = ?1, history = json_insert(history, '$[#]', json(?2)), waiting = waiting AND "
        "action = 'cancel_update' AND ?1 NOT IN ('cancelling', 'cancelled', 'installed', 'failed', 'rolled_back', "
        "'already_installed') "
        "WHERE update_id = ?3",
        (str(payload.get("state")), json.dumps(payload), str(payload.get("update_id"))),
    )


def _retry(seq: int) -> Result:
    return {"seq": seq, "status": "retry"}


def _rejected(seq: int, code: str, message: str) -> Result:
    return {"seq": seq, "status": "rejected", "code": code, "message": message}


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise RefusalError(422, "bad_request", f"{name} must be a text of 1 to 64 characters")
    return value


def _count(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_SEQ:
        raise RefusalError(422, "bad_request", f"{name} must be a number, 0 or above")
    return value


def _is_seq(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_SEQ
