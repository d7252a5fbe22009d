"""How the appliance and its devices are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.times import rfc3339
from appliance.errors import UnknownDeviceError
from appliance.store.devices import Device
from appliance.web.answers import BufferAnswer, DeviceAnswer, DevicesAnswer, HealthAnswer, RootAnswer
from appliance.web.auth import KeyGuard
from appliance.web.bodies import json_response, parse
from appliance.web.devices import configuration_status, secret_status
from appliance.web.routes import Media, describes
from appliance.web.services import WebServices

MOST_DEVICES_PER_PAGE = 500


class DevicesQuery(BaseModel):
    """Query of ``GET /api/v1/devices/status``: ``search`` is part of a device id or serial number, ``after`` the
    last device id of the page before."""

    # a filter that is misspelt must not show everything
    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["online", "offline", "unknown"] | None = None
    search: Annotated[str, StringConstraints(max_length=64)] | None = None
    after: Annotated[str, StringConstraints(max_length=64)] = ""
    limit: Annotated[int, Field(ge=1, le=MOST_DEVICES_PER_PAGE)] = 100


class StatusRoutes:
    """``/``, ``/health``, ``/ca.pem``, the buffer, and the devices."""

    def __init__(self, services: WebServices, guard: KeyGuard, endpoints: Sequence[dict[str, Any]]) -> None:
        self._services = services
        self._guard = guard
        self._endpoints = endpoints

    @describes(RootAnswer, answers={503: RootAnswer, 303: None})
    async def root(self, request: Request) -> Response:
        """Name, version, endpoints; a browser is sent to the status pages."""
        if "text/html" in request.headers.get("accept", ""):
            return Response(status_code=303, headers={"Location": "/ui/", "Vary": "Accept"})
        health = self._services.health()
        content = {
            "status": health.status,
            "name": self._services.name,
            "version": self._services.version,
            "endpoints": self._endpoints,
        }
        return json_response(to_json(content), _status_code(health.status))

    @describes(
        HealthAnswer,
        answers={503: HealthAnswer},
        problems={401: "a key that is not valid"},
        security=("bearer", "header"),
    )
    async def health(self, request: Request) -> Response:
        """How the appliance is; in detail for those with a key."""
        verdict = self._guard.judge(request)
        if verdict == "wrong":
            return self._guard.refusal(request, verdict)
        health = self._services.health()
        content: dict[str, Any] = {"status": health.status}
        if verdict == "valid":
            content |= {
                "name": self._services.name,
                "version": self._services.version,
                "reasons": health.reasons,
                "time": rfc3339(self._services.clock.now_ms()),
                **health.details,
            }
        return json_response(to_json(content), _status_code(health.status))

    @describes(Media("application/x-pem-file"))
    async def ca_pem(self, _: Request) -> Response:
        """The certificate of the appliance's own authority."""
        headers = {"Content-Disposition": 'inline; filename="ca.pem"'}
        return Response(self._services.ca_pem, media_type="application/x-pem-file", headers=headers)

    @describes(BufferAnswer)
    async def buffer(self, _: Request) -> Response:
        """What waits for Odoo, by kind, and what was parked, by reason, as long as there are not too many to count."""
        kinds = await self._services.kinds()
        backlog = self._services.backlog()
        oldest_ms = backlog.oldest_received_at_ms
        age_s = None if oldest_ms is None else max(self._services.clock.now_ms() - oldest_ms, 0) / 1000
        content = {
            "waiting": backlog.waiting,
            "waiting_by_kind": kinds.waiting,
            "parked": backlog.parked,
            "parked_by_code": kinds.parked,
            "oldest_received_at": _time(oldest_ms),
            "oldest_age_s": age_s,
            "last_seq": backlog.last_seq,
        }
        return json_response(to_json(content))

    @describes(DeviceAnswer, problems={404: "no such device is paired here"})
    async def device(self, request: Request) -> Response:
        """One device: connection, firmware, last telemetry, open commands, counters, and why it is offline."""
        return json_response(to_json(await self.device_content(request.path_params["device_id"])))

    async def device_content(self, device_id: str) -> dict[str, Any]:
        """All about a device, as the route and its page show it; :class:`UnknownDeviceError`."""
        device = self._services.registry.get(device_id)
        if device is None:
            raise UnknownDeviceError("no such device is paired here")
        return self._summary(device) | {
            "hardware": device.hardware,
            "config_version": device.config_version,
            "configuration": configuration_status(device, self._services.push, self._services.changes),
            "secret": secret_status(device),
            "paired_at": _time(device.paired_at_ms),
            "first_login_at": _time(device.first_login_at_ms),
            "counters": await self._services.counters(device_id),
            "time": rfc3339(self._services.clock.now_ms()),
        }

    @describes(DevicesAnswer, query=DevicesQuery)
    async def devices(self, request: Request) -> Response:
        """Devices in order of their ids; ``next`` is the ``after`` of the next page, if there is one."""
        return json_response(to_json(self.devices_page(parse(DevicesQuery, dict(request.query_params)))))

    def devices_page(self, query: DevicesQuery) -> dict[str, Any]:
        """A page of devices, as the route and the status page show it."""
        # one device more than the page holds tells whether there is another page
        page: list[Device] = []
        for device in sorted(self._services.registry.all(), key=lambda device: device.device_id):
            if device.device_id > query.after and self._matches(device, query):
                page.append(device)
                if len(page) > query.limit:
                    break
        more = len(page) > query.limit
        page = page[: query.limit]
        return {
            "devices": [self._summary(device) for device in page],
            "next": page[-1].device_id if more else None,
            "paired": len(self._services.registry),
        }

    def _matches(self, device: Device, query: DevicesQuery) -> bool:
        if query.search and query.search not in device.device_id and query.search not in device.serial:
            return False
        return query.status is None or self._services.presence(device.device_id).status == query.status

    def _summary(self, device: Device) -> dict[str, Any]:
        presence = self._services.presence(device.device_id)
        reason = None if presence.status == "online" else device.disabled_reason or presence.reason
        code = None if presence.status == "online" or presence.reason_code is None else presence.reason_code.value
        return {
            "device_id": device.device_id,
            "serial": device.serial,
            "enabled": device.enabled,
            "connection": {
                "status": presence.status,
                "since": _time(presence.since_ms),
                "for_s": presence.for_s,
                "reason_code": "disabled" if reason and device.disabled_reason else code,
                "reason": reason,
                "address": presence.address,
                "last_seen": _time(presence.last_seen_ms),
                "connects": presence.connects,
                "takeovers": presence.takeovers,
                "warning": presence.warning,
            },
            "firmware_version": device.firmware_version,
            "last_telemetry": _time(presence.last_telemetry_ms),
            "open_commands": self._services.commands.open_count(device.device_id),
            "open_update": self._services.updates.open_update(device.device_id),
        }


def _status_code(status: str) -> int:
    return 503 if status == "failing" else 200


def _time(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
