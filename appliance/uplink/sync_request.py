"""What the appliance tells Odoo of itself with each ``sync``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.contract.sync import (
    MOST_STARTS,
    BacklogReport,
    DiskReport,
    EpochReport,
    LedgerReport,
    StartReport,
    SyncRequest,
)
from appliance.contract.times import rfc3339
from appliance.store.epochs import EpochStand
from appliance.store.standing import Standing

PROBLEMS = 50
PROBLEM_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReport:
    """What the appliance says of itself; fields as in :class:`appliance.contract.sync.SyncRequest`."""

    name: str
    version: str
    uptime_s: float
    status: str = "ok"
    problems: Sequence[str] = ()
    backlog: BacklogReport | None = None
    ledger: LedgerReport | None = None
    disk: DiskReport | None = None
    devices_paired: int = 0
    devices_online: int = 0
    api_url: str | None = None
    ca_fingerprint: str | None = None


def sync_request(
    report: GatewayReport, *, standing: Standing, epochs: Sequence[EpochStand], gateway_uid: str, now_ms: int
) -> SyncRequest:
    """The body of a ``sync``."""
    return SyncRequest.model_validate(
        {
            "gateway": gateway_uid,
            "name": report.name,
            "version": report.version,
            "time": rfc3339(now_ms),
            "uptime_s": report.uptime_s,
            "start": standing.present.start,
            "starts": _told(standing),
            "database_uuid": standing.database_uuid,
            "epochs": [
                EpochReport(
                    epoch=stand.epoch,
                    first_seq=stand.first_seq,
                    last_seq=stand.last_seq,
                    floor=stand.floor,
                    settled=stand.settled,
                    stored=stand.stored,
                    below=stand.below,
                )
                for stand in epochs
            ],
            "cursor": standing.cursor,
            "status": report.status,
            "problems": [problem[:PROBLEM_CHARACTERS] for problem in report.problems[:PROBLEMS]],
            "backlog": report.backlog,
            "ledger": report.ledger,
            "disk": report.disk,
            "devices_paired": report.devices_paired,
            "devices_online": report.devices_online,
            "api_url": report.api_url,
            "ca_fingerprint": report.ca_fingerprint,
        }
    )


def _told(standing: Standing) -> list[StartReport]:
    """As many as may be told. Where some are left out, the first that follows begins where they did."""
    starts = standing.unheard
    earlier = standing.starts[: -len(starts)]
    kept = starts[-MOST_STARTS:]
    firsts = [starts[0].first_seq, *(start.first_seq for start in kept[1:])]
    previous = [earlier[-1].start if earlier else None, *(start.start for start in kept[:-1])]
    return [
        StartReport(start=start.start, first_seq=first_seq, previous=before)
        for start, first_seq, before in zip(kept, firsts, previous, strict=True)
    ]
