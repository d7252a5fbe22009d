"""The routes, and the application that serves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from appliance.errors import RequestError, StoreUnavailableError
from appliance.services.limits import FailureLimiter, RateLimiter
from appliance.web.api_keys import ApiKeyRoutes
from appliance.web.auth import KeyGuard
from appliance.web.bodies import BodyLimit
from appliance.web.commands import CommandRoutes
from appliance.web.config import ConfigRoutes
from appliance.web.dead_letters import DeadLetterRoutes
from appliance.web.devices import DeviceRoutes
from appliance.web.firmware import FirmwareRoute
from appliance.web.ledger import LedgerRoutes
from appliance.web.metrics import MetricsRoute
from appliance.web.mqtt_socket import PATH as MQTT_PATH
from appliance.web.mqtt_socket import MqttSockets
from appliance.web.openapi import OpenApiRoute
from appliance.web.ota import OtaRoutes
from appliance.web.page_password import PagePasswordRoute
from appliance.web.pages.routes import page_lines
from appliance.web.problems import Boundary, on_http_exception, on_request_error, on_store_unavailable
from appliance.web.rates import RateLimit
from appliance.web.routes import Line as _Line
from appliance.web.routes import routes as _routes
from appliance.web.services import Health, WebServices
from appliance.web.status import StatusRoutes
from appliance.web.sync import SyncRoute

__all__ = ["Health", "WebLimits", "WebServices", "create_app"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebLimits:
    """Bounds of what a client can make the API do."""

    body_bytes: int = 1 << 20
    failures_per_address: int = 20
    failure_window_s: float = 60.0
    requests_per_address_per_s: float = 50.0
    """Without a key."""
    burst_per_address: int = 300
    requests_per_key_per_s: float = 200.0
    burst_per_key: int = 2000
    """Odoo hands over what it has for a thousand devices at once."""


def create_app(
    services: WebServices,
    *,
    limits: WebLimits | None = None,
    mqtt_sockets: MqttSockets | None = None,
) -> Starlette:
    """The API as an ASGI application; with ``mqtt_sockets`` it serves MQTT over WebSocket too."""
    limits = limits or WebLimits()
    limiter = FailureLimiter(most=limits.failures_per_address, window_s=limits.failure_window_s, clock=services.clock)
    guard = KeyGuard(keys=services.api_keys, limiter=limiter)
    table: list[dict[str, Any]] = []
    status = StatusRoutes(services, guard, table)
    config = ConfigRoutes(services, guard)
    commands = CommandRoutes(services.commands)
    devices = DeviceRoutes(services.changes)
    updates = OtaRoutes(services.updates)
    firmware = FirmwareRoute(services.updates, services.firmware_files, services.firmware_downloads)
    ledger = LedgerRoutes(services.ledger)
    letters = DeadLetterRoutes(services.dead_letters, clock=services.clock, stopping=services.stopping)
    metrics = MetricsRoute(services.metrics)
    keys = ApiKeyRoutes(services.api_keys)
    password = PagePasswordRoute(services.pages.password)
    lines: list[_Line] = []
    openapi = OpenApiRoute(lines, version=services.version, sockets=mqtt_sockets is not None)
    lines += [
        _Line("GET", "/", status.root, open=True),
        _Line("GET", "/openapi.json", openapi.document, open=True),
        _Line("GET", "/health", status.health, open=True),
        _Line("GET", "/ca.pem", status.ca_pem, open=True),
        _Line("POST", "/api/v1/config/download", config.download, open=True),
        _Line("POST", "/api/v1/command/send", commands.send),
        _Line("GET", "/api/v1/command/{command_id}", commands.status),
        _Line("DELETE", "/api/v1/command/{command_id}", commands.cancel),
        _Line("POST", "/api/v1/sync", SyncRoute(services.sync_soon).soon),
        _Line("POST", "/api/v1/ota/send", updates.send),
        _Line("GET", "/api/v1/ota/{update_id}", updates.status),
        _Line("DELETE", "/api/v1/ota/{update_id}", updates.cancel),
        # the link is the permission
        _Line("GET", "/firmware/{sha256}", firmware.file, open=True),
        _Line("GET", "/api/v1/device/{device_id}/status", status.device),
        _Line("POST", "/api/v1/device/{device_id}/rotate", devices.rotate),
        _Line("DELETE", "/api/v1/device/{device_id}", devices.remove),
        _Line("GET", "/api/v1/devices/status", status.devices),
        _Line("GET", "/api/v1/buffer", status.buffer),
        _Line("GET", "/metrics", metrics.metrics, scope="metrics"),
        _Line("GET", "/api/v1/api-keys", keys.list, scope="full"),
        _Line("POST", "/api/v1/api-keys", keys.create, scope="full"),
        _Line("DELETE", "/api/v1/api-keys/{key_id}", keys.revoke, scope="full"),
        _Line("POST", "/api/v1/page-password", password.change, scope="full"),
        _Line("GET", "/api/v1/ledger", ledger.ledger),
        _Line("GET", "/api/v1/dead-letters", letters.list),
        _Line("DELETE", "/api/v1/dead-letters", letters.remove_many),
        # before the route for one: these are no ids
        _Line("GET", "/api/v1/dead-letters/export", letters.export),
        _Line("POST", "/api/v1/dead-letters/retry", letters.retry_many),
        _Line("GET", "/api/v1/dead-letters/{dead_letter_id}", letters.show),
        _Line("DELETE", "/api/v1/dead-letters/{dead_letter_id}", letters.remove),
        _Line("POST", "/api/v1/dead-letters/{dead_letter_id}/retry", letters.retry),
        *page_lines(services, status=status, letters=letters, limiter=limiter),
    ]
    table.extend(
        {"method": line.method, "path": line.path, "key": line.needs is not None, "scope": line.needs} for line in lines
    )
    routes: list[BaseRoute] = [*_routes(lines, guard)]
    if mqtt_sockets is not None:
        table.append({"method": "WS", "path": MQTT_PATH, "key": False, "scope": None})
        routes += [WebSocketRoute(MQTT_PATH, mqtt_sockets.endpoint), Route(MQTT_PATH, mqtt_sockets.no_socket)]
    handlers: dict[Any, Any] = {
        HTTPException: on_http_exception,
        RequestError: on_request_error,
        StoreUnavailableError: on_store_unavailable,
    }
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Boundary),
            Middleware(
                RateLimit,
                guard=guard,
                by_key=RateLimiter(
                    per_s=limits.requests_per_key_per_s, burst=limits.burst_per_key, clock=services.clock
                ),
                by_address=RateLimiter(
                    per_s=limits.requests_per_address_per_s, burst=limits.burst_per_address, clock=services.clock
                ),
            ),
            Middleware(BodyLimit, most_bytes=limits.body_bytes),
        ],
        exception_handlers=handlers,
    )
    # a path is right or it is not: a redirect would lose the body and the key of most clients
    app.router.redirect_slashes = False
    return app
