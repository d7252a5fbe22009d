"""The body of ``POST /iiot/gateway/sync``: an appliance's report, and how far it knows Odoo's changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import checks
from .batch import Told
from .times import parse_rfc3339

MAX_EPOCHS = 16
MAX_STARTS = 64
MAX_PROBLEMS = 50
PROBLEM_CHARACTERS = 300
LEDGER = ("received", "stored", "waiting", "parked", "removed", "refused", "repeated")
STATUSES = ("ok", "degraded", "failing")


@dataclass(frozen=True)
class EpochReport:
    """Where the appliance stands with the messages of one epoch."""

    epoch: str
    told: Told


@dataclass(frozen=True)
class StartReport:
    """A start of the process, the first message that it could store, and the start before it."""

    start: str
    first_seq: int
    previous: str | None


@dataclass(frozen=True)
class SyncRequest:
    """A sync; ``figures`` are values of ``iiot.gateway.report`` by their names there."""

    gateway: str
    start: str
    starts: list[StartReport]
    epochs: list[EpochReport]
    database_uuid: str | None
    cursor: str | None
    time: datetime
    figures: dict[str, Any]


def read_sync(body: object) -> SyncRequest:
    """The request; ``RefusalError`` where it makes no sense."""
    body = checks.of_this_contract(body)
    try:
        time = parse_rfc3339(body.get("time"))
    except ValueError:
        raise checks.bad_request("time must be RFC 3339") from None
    return SyncRequest(
        gateway=checks.text(body, "gateway"),
        start=checks.uuid(body, "start"),
        starts=[
            _start(checks.an_object(item, "each start"))
            for item in checks.a_list(body, "starts", least=1, most=MAX_STARTS)
        ],
        epochs=[
            _epoch(checks.an_object(item, "each epoch"))
            for item in checks.a_list(body, "epochs", least=1, most=MAX_EPOCHS)
        ],
        database_uuid=checks.optional_text(body, "database_uuid"),
        cursor=checks.optional_text(body, "cursor", most=200),
        time=time,
        figures=_figures(body),
    )


def _start(item: dict[str, Any]) -> StartReport:
    return StartReport(
        start=checks.uuid(item, "start"),
        first_seq=checks.count(item, "first_seq", least=1),
        previous=None if item.get("previous") is None else checks.uuid(item, "previous"),
    )


def _epoch(item: dict[str, Any]) -> EpochReport:
    return EpochReport(
        epoch=checks.uuid(item, "epoch"),
        told=Told(
            floor=checks.count(item, "floor"),
            settled=checks.count(item, "settled"),
            stored=checks.count(item, "stored"),
            below=checks.count(item, "below", 0),
        ),
    )


def _figures(body: dict[str, Any]) -> dict[str, Any]:
    status = body.get("status", "ok")
    if status not in STATUSES:
        raise checks.bad_request(f"status must be one of {', '.join(STATUSES)}")
    problems = [] if body.get("problems") is None else checks.a_list(body, "problems", most=MAX_PROBLEMS)
    if not all(isinstance(problem, str) and checks.is_storable(problem) for problem in problems):
        raise checks.bad_request("problems must be texts")
    return {
        "reported_name": checks.text(body, "name", most=200),
        "version": checks.text(body, "version", most=200),
        "status": status,
        "problems": "\n".join(" ".join(problem[:PROBLEM_CHARACTERS].split()) for problem in problems) or False,
        "uptime_s": checks.number(body, "uptime_s") or 0.0,
        "devices_paired": _small(body, "devices_paired"),
        "devices_online": _small(body, "devices_online"),
        "reported_api_url": checks.optional_text(body, "api_url", most=2000) or False,
        "ca_fingerprint": checks.optional_text(body, "ca_fingerprint", most=200) or False,
        **_backlog(body),
        **_ledger(body),
        **_disk(body),
    }


def _small(body: dict[str, Any], name: str) -> int:
    return min(checks.count(body, name, 0), 2**31 - 1)


def _backlog(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("backlog") is None:
        return {}
    backlog = checks.an_object(body["backlog"], "backlog")
    try:
        oldest = None if backlog.get("oldest_at") is None else parse_rfc3339(backlog["oldest_at"])
    except ValueError:
        raise checks.bad_request("oldest_at must be RFC 3339") from None
    return {
        "waiting": checks.count(backlog, "waiting"),
        "parked": checks.count(backlog, "parked"),
        "oldest_waiting_at": oldest and oldest.replace(microsecond=0),
        "drain_s": checks.number(backlog, "drain_s") or 0.0,
    }


def _ledger(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("ledger") is None:
        return {}
    ledger = checks.an_object(body["ledger"], "ledger")
    return {f"ledger_{name}": checks.count(ledger, name) for name in LEDGER}


def _disk(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("disk") is None:
        return {}
    disk = checks.an_object(body["disk"], "disk")
    return {
        "disk_free_mb": checks.count(disk, "free_bytes") / 1e6,
        "disk_total_mb": checks.count(disk, "total_bytes") / 1e6,
    }
