"""The first page: is it well, what waits, is Odoo there, how fast does it drain; and the picture that keeps it so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.problems import Problem
from appliance.contract.times import rfc3339
from appliance.web.charts import Chart, Point, draw
from appliance.web.metrics import Figures
from appliance.web.pages.access import Guarded, PageAccess, page
from appliance.web.pages.frame import HTML, Frame
from appliance.web.pages.live import Live
from appliance.web.pages.sessions import Session
from appliance.web.pages.words import NONE, ago, number, rate, size, span
from appliance.web.problems import problem_response
from appliance.web.routes import Media, describes
from appliance.web.services import Health, WebServices

VERDICTS = {"ok": "All is well", "degraded": "Somebody should look", "failing": "Nothing can be stored"}
SPANS = {"hour": (3_600_000, 60_000), "day": (86_400_000, 600_000)}
"""Length and step of the charts in milliseconds."""
LEDGER = {
    "received": "received",
    "stored": "in Odoo",
    "waiting": "wait on this disk",
    "parked": "parked",
    "removed": "removed",
    "refused": "refused, not stored",
    "repeated": "repeats",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """All that the first page shows, as text; the other pages use a little of it."""

    status: str
    verdict: str
    time: str
    reasons: tuple[str, ...]
    texts: Mapping[str, str]
    charts: Mapping[str, Chart]

    def encoded(self) -> bytes:
        """For the page's script: by the names that its elements carry."""
        paths: dict[str, str] = {}
        for name, chart in self.charts.items():
            paths[f"{name}.away"] = chart.away
            paths |= {f"{name}.{number}": line for number, line in enumerate(chart.lines)}
        return to_json(
            {
                "status": self.status,
                "texts": {**self.texts, "verdict": self.verdict, "time": self.time},
                "reasons": self.reasons,
                "paths": paths,
            }
        )


class OverviewPage(Guarded):
    """``/ui/`` and ``/ui/live``."""

    def __init__(self, services: WebServices, access: PageAccess, frame: Frame) -> None:
        self.access = access
        self.frame = frame
        self._services = services
        self.live = Live(self._encoded, clock=services.clock, stopping=services.stopping)

    @describes(HTML, answers={303: None})
    @page
    async def overview(self, request: Request, session: Session) -> Response:
        """How the appliance is, at a glance."""
        return self.frame.html("overview.html", session, picture=await self.picture(), ledger=LEDGER, page="overview")

    @describes(Media("text/event-stream"), problems={401: "log in first"})
    async def follow(self, request: Request) -> Response:
        """The same once a second, as server-sent events, for a minute; then the browser asks again."""
        session = self.access.session(request)
        if session is None:
            return problem_response(Problem(401, "unauthorized", "log in to see this"))
        return self.live.stream(lambda: self.access.sessions.is_open(session))

    async def _encoded(self) -> bytes:
        return (await self.picture()).encoded()

    async def picture(self) -> Picture:
        """How it is now."""
        services = self._services
        health, figures = services.health(), await services.metrics()
        now_ms = services.clock.now_ms()
        charts = self._charts(now_ms)
        notes = {f"{name}_note": _chart_note(chart) for name, chart in charts.items()}
        return Picture(
            status=health.status,
            verdict=VERDICTS[health.status],
            time=rfc3339(now_ms)[:19].replace("T", " "),
            reasons=health.reasons,
            texts={**self._tiles(health, figures, now_ms), **_ledger(figures), **notes},
            charts=charts,
        )

    def _tiles(self, health: Health, figures: Figures, now_ms: int) -> dict[str, str]:
        uplink: Mapping[str, Any] = health.details.get("uplink", {})
        backlog, disk = figures.backlog, figures.disk
        rates = self._services.pages.trends.rates()
        received, settled = rates or (figures.readings_per_s, None)
        stock = figures.store.stock if figures.store else None
        return {
            "odoo": odoo_word(uplink),
            "odoo_note": _last_answer(uplink, now_ms),
            "waiting": number(backlog.waiting),
            "waiting_note": _drain(backlog.waiting, backlog.oldest_received_at_ms, uplink, settled, now_ms),
            "online": number(figures.devices_online),
            "paired": f"of {number(figures.devices_paired)} paired are online",
            "rate": rate(received),
            "rate_note": f"{rate(settled)} go to Odoo" if settled is not None else "in the last minute",
            "parked": number(backlog.parked),
            "parked_note": size(stock.payload_bytes) if stock else NONE,
            "disk": size(disk.get("free_bytes")),
            "disk_note": f"free; the buffer's file has {size(disk.get('file_bytes'))}",
            "commands": number(figures.commands_open),
            "updates": number(figures.updates_open),
        }

    def _charts(self, now_ms: int) -> dict[str, Chart]:
        charts: dict[str, Chart] = {}
        for name, points in (("hour", self._services.pages.trends.hour), ("day", self._services.pages.trends.day)):
            length_ms, step_ms = SPANS[name]
            # to a whole step: what is drawn stays as it is until there is a new point
            end_ms = (now_ms // step_ms + 1) * step_ms
            for chart, values in (("rate", (_received, _settled)), ("waiting", (_waiting,))):
                charts[f"{chart}_{name}"] = draw(points, values, now_ms=end_ms, length_ms=length_ms, step_ms=step_ms)
        return charts


def _received(point: Point) -> float:
    return point.received_per_s


def _settled(point: Point) -> float:
    return point.settled_per_s


def _waiting(point: Point) -> float:
    return point.waiting


def _chart_note(chart: Chart) -> str:
    if chart.last is None:
        return "nothing yet: the first point comes after a minute"
    return f"last {number(chart.last)}, up to {number(chart.top)}"


def odoo_word(uplink: Mapping[str, Any]) -> str:
    """How it stands with Odoo."""
    if not uplink.get("configured"):
        return "not set up"
    if uplink.get("alarm"):
        return "refuses"
    reachable = uplink.get("reachable")
    return "not asked yet" if reachable is None else "answers" if reachable else "does not answer"


def _last_answer(uplink: Mapping[str, Any], now_ms: int) -> str:
    if not uplink.get("configured"):
        return "everything is kept here until it is"
    at_ms = uplink.get("last_success_at_ms")
    return f"took messages {ago(at_ms, now_ms)}" if at_ms else "has taken nothing since the start"


def _drain(waiting: int, oldest_ms: int | None, uplink: Mapping[str, Any], settled: float | None, now_ms: int) -> str:
    if not waiting:
        return "nothing waits"
    parts = [f"the oldest from {ago(oldest_ms, now_ms)}"]
    drain_s = uplink.get("drain_s")
    if drain_s is not None:
        parts.append(f"about {span(drain_s)} to go")
        if settled:
            parts.append(f"at {rate(settled)}")
    elif uplink.get("configured"):
        parts.append("they do not become fewer now")
    return ", ".join(parts)


def _ledger(figures: Figures) -> dict[str, str]:
    total = None if figures.store is None else figures.store.total
    if total is None:
        return {**{f"ledger_{name}": NONE for name in LEDGER}, "sum": "The store cannot be asked now."}
    counts = {name: getattr(total, name) for name in LEDGER}
    accounted = total.stored + total.waiting + total.parked + total.removed
    adds_up = accounted == total.received and figures.ledger_adds_up is not False
    verdict = "It adds up." if adds_up else f"It does not add up: {number(accounted)} are accounted for."
    return {**{f"ledger_{name}": number(count) for name, count in counts.items()}, "sum": verdict}
