"""The devices, and one of them: how it is, why it is offline, what it sent, what it was told."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.times import Clock, rfc3339, time_of
from appliance.errors import StoreUnavailableError
from appliance.store.peek import SeenMessage
from appliance.web.bodies import parse
from appliance.web.pages.access import Guarded, PageAccess, page
from appliance.web.pages.frame import HTML, Frame
from appliance.web.pages.payloads import readable
from appliance.web.pages.sessions import Session
from appliance.web.routes import describes
from appliance.web.services import WebServices
from appliance.web.status import DevicesQuery, StatusRoutes

PER_PAGE = 50
READINGS_SHOWN, COMMANDS_SHOWN, UPDATES_SHOWN = 15, 10, 5
PLACES = {"waiting": "waits for Odoo", "stored": "in Odoo", "parked": "parked"}
MOST_RATES = 2000
LEAST_RATE_S, LONGEST_RATE_S = 4.0, 300.0


class Rates:
    """How fast readings come from those devices that somebody looks at: from one look to the next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, device_id: str, received: int) -> float | None:
        """So many were received up to now; how many a second that is since a while ago, ``None`` at the first look."""
        now = self._clock.monotonic()
        begun, before = self._seen.get(device_id, (now, received))
        age_s = now - begun
        if device_id not in self._seen or age_s > LONGEST_RATE_S or received < before:
            self._seen[device_id] = (now, received)
        self._seen.move_to_end(device_id)
        if len(self._seen) > MOST_RATES:
            self._seen.popitem(last=False)
        return (received - before) / age_s if age_s >= LEAST_RATE_S and received >= before else None


class DevicePages(Guarded):
    """``/ui/devices`` and ``/ui/device/…``."""

    def __init__(self, services: WebServices, status: StatusRoutes, access: PageAccess, frame: Frame) -> None:
        self.access = access
        self.frame = frame
        self._services = services
        self._status = status
        self._rates = Rates(services.clock)

    @describes(HTML, answers={303: None, 422: HTML}, query=DevicesQuery)
    @page
    async def devices(self, request: Request, session: Session) -> Response:
        """All devices, in pages; with the reason why one is offline."""
        # a form sends its empty fields too
        given = {name: text for name, text in request.query_params.items() if text}
        query = parse(DevicesQuery, {"limit": PER_PAGE, **given})
        found = self._status.devices_page(query)
        counted = await self._counted([device["device_id"] for device in found["devices"]])
        now_ms = self._services.clock.now_ms()
        return self.frame.html(
            "devices.html",
            session,
            devices=[device | counted.get(device["device_id"], _NOT_COUNTED) for device in found["devices"]],
            next=found["next"],
            paired=found["paired"],
            search=query.search or "",
            connection=query.status or "",
            after=query.after,
            now_ms=now_ms,
            page="devices",
        )

    async def _counted(self, device_ids: list[str]) -> dict[str, dict[str, Any]]:
        try:
            lines = await self._services.pages.peek.received(device_ids)
        except StoreUnavailableError:
            return {}
        return {
            device_id: {"rate": self._rates.note(device_id, received), "refused": refused, "parked": parked}
            for device_id, (received, refused, parked) in lines.items()
        }

    @describes(HTML, answers={303: None, 404: HTML, 503: HTML})
    @page
    async def device(self, request: Request, session: Session) -> Response:
        """All about one device: why it is not online, what it sent last, its commands and updates."""
        device_id = request.path_params["device_id"]
        device = await self._status.device_content(device_id)
        peek = self._services.pages.peek
        return self.frame.html(
            "device.html",
            session,
            device=device,
            rate=self._rates.note(device_id, device["counters"]["received"]),
            readings=[_reading(each) for each in await peek.readings(device_id, limit=READINGS_SHOWN)],
            commands=await peek.commands(device_id, limit=COMMANDS_SHOWN),
            updates=await peek.updates(device_id, limit=UPDATES_SHOWN),
            rfc3339=rfc3339,
            page="devices",
        )


_NOT_COUNTED = {"rate": None, "refused": None, "parked": None}


def _reading(seen: SeenMessage) -> dict[str, str]:
    return {
        "at": rfc3339(time_of(seen.at_ms, seen.received_at_ms, seen.flags)),
        "payload": readable(seen.payload, seen.payload_bytes),
        "place": PLACES[seen.place],
    }
