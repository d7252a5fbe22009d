"""What was received and where it is now, by device and in all."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.odoo import kind_name
from appliance.contract.times import rfc3339
from appliance.store.ledger import LedgerLine, LedgerPage
from appliance.web.answers import LedgerAnswer
from appliance.web.bodies import json_response, parse
from appliance.web.routes import describes
from appliance.web.services import ReadLedger

MOST_LINES = 500


class LedgerQuery(BaseModel):
    """Query of ``GET /api/v1/ledger``: ``search`` is part of a device id, ``after`` the last device of the page
    before."""

    # a filter that is misspelt must not show everything
    model_config = ConfigDict(frozen=True, extra="forbid")

    search: Annotated[str, StringConstraints(max_length=64)] = ""
    after: Annotated[str, StringConstraints(max_length=64)] = ""
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = 100


class LedgerRoutes:
    """``/api/v1/ledger``."""

    def __init__(self, read: ReadLedger) -> None:
        self._read = read

    @describes(LedgerAnswer, query=LedgerQuery)
    async def ledger(self, request: Request) -> Response:
        """Lines in order of their devices. ``adds_up`` holds the counters against each other and, where
        ``checked_against_rows``, against the rows themselves (some thousands, not millions)."""
        query = parse(LedgerQuery, dict(request.query_params))
        page = await self._read(search=query.search, after=query.after, limit=query.limit)
        content = {
            "adds_up": page.adds_up,
            "checked_against_rows": page.counted_waiting is not None and page.counted_parked is not None,
            "total": _counts(page.total),
            "lines": page.devices,
            "devices": [
                {"device": line.device, **_counts(line), "removals": _removals(page, line)} for line in page.lines
            ],
            "next": page.lines[-1].device if page.more else None,
        }
        return json_response(to_json(content))


def _counts(line: LedgerLine) -> dict[str, Any]:
    counts = asdict(line)
    del counts["device"]
    return counts | {"waiting": line.waiting, "adds_up": line.possible}


def _removals(page: LedgerPage, line: LedgerLine) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind_name(removal.kind),
            "reason": removal.reason,
            "count": removal.count,
            "last_at": rfc3339(removal.last_at_ms),
        }
        for removal in page.removals
        if removal.device == line.device
    ]
