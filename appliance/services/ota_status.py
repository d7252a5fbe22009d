"""What callers are told of an update, and how a request is recognised when it comes again."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json

from appliance.contract.ota import DownloadStatus, UpdateEvent, UpdateState, UpdateStatus
from appliance.contract.times import rfc3339
from appliance.store.outbox import Moment
from appliance.store.updates import StoredUpdate, UpdateRow

_DIGEST_BYTES = 16
_canonical = json.JSONEncoder(sort_keys=True).encode


def order_digest(device_id: str, action: str, params: dict[str, Any]) -> bytes:
    """The same for an order that asks for the same again."""
    return blake2b(_canonical([device_id, action, params]).encode(), digest_size=_DIGEST_BYTES).digest()


def accepted(row: UpdateRow) -> UpdateStatus:
    """The answer to an order that was accepted, the first time and every time."""
    state: UpdateState = "fetching" if row.action == "start_update" else "queued"
    at = rfc3339(row.created_at_ms)
    return UpdateStatus(
        update_id=row.update_id,
        device_id=row.device,
        action=row.action,
        state=state,
        version=row.version,
        settled=False,
        created_at=at,
        history=[UpdateEvent(state=state, at=at)],
    )


def full_status(stored: StoredUpdate, *, now: Moment, download: DownloadStatus | None) -> UpdateStatus:
    """All that is known now."""
    row = stored.row
    ends_ms = now.wall_ms + row.deadline_ms - now.steady_ms
    return UpdateStatus(
        update_id=row.update_id,
        device_id=row.device,
        action=row.action,
        state=row.state,
        reason=row.reason,
        error=row.error,
        version=row.version,
        progress=row.progress,
        sha256=row.sha256,
        size=row.size,
        deliveries=row.deliveries,
        settled=not row.open,
        created_at=rfc3339(row.created_at_ms),
        deadline_at=rfc3339(ends_ms) if row.open else None,
        download=download,
        history=from_json(f"[{stored.history}]"),
    )


def short_status(row: UpdateRow, download: DownloadStatus | None) -> dict[str, Any]:
    """An open update as a device's status shows it."""
    return {
        "update_id": row.update_id,
        "action": row.action,
        "state": row.state,
        "version": row.version,
        "progress": row.progress,
        "download": None if download is None else download.model_dump(),
    }
