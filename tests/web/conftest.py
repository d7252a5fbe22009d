"""An API on a real store, registry and pairing; only Odoo and the command service are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.applications import Starlette

from appliance.contract.command import CommandEvent, CommandStatus, SendCommand
from appliance.contract.odoo import DeviceConfig
from appliance.contract.ota import SendUpdate
from appliance.contract.times import Clock
from appliance.contract.topics import TopicTemplates
from appliance.enrolment import Enrolled
from appliance.errors import (
    FirmwareError,
    OdooUnavailableError,
    RequestError,
    StoreUnavailableError,
    UnknownCommandError,
    UnknownDeviceError,
)
from appliance.page_password import PagePassword
from appliance.parts.trends import Trends
from appliance.services.api_keys import ApiKeys
from appliance.services.config_push import ConfigPush
from appliance.services.credentials import Credentials
from appliance.services.device_changes import DeviceService
from appliance.services.firmware import FirmwareService, Wish
from appliance.services.firmware_links import FirmwareLinks
from appliance.services.ota import OtaService
from appliance.services.ota_delivery import order_payload
from appliance.services.pairing import BrokerAddress, PairingService
from appliance.services.presence import PresenceService
from appliance.store.buffer import Backlog, Buffer
from appliance.store.database import Database
from appliance.store.dead_letters import DeadLetters
from appliance.store.device_rows import Claim
from appliance.store.devices import Device, DeviceRegistry
from appliance.store.firmware import FirmwareFiles, Part
from appliance.store.kinds import BufferKinds, read_kinds
from appliance.store.ledger import LedgerPage, read_page, read_total
from appliance.store.peek import Peek
from appliance.store.updates import Updates
from appliance.web.api import Health, WebLimits, WebServices, create_app
from appliance.web.metrics import Figures, StoreFigures
from appliance.web.services import PageServices
from tests.services.odoo_source import OdooSource

KEY = "k" * 43
MASTER_KEY = bytes(range(32))
CA_PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


class FakeCommands:
    """Remembers orders; the first result for a repeated ``command_id``."""

    def __init__(self, registry: DeviceRegistry) -> None:
        self.registry = registry
        self.orders: list[SendCommand] = []
        self.known: dict[str, CommandStatus] = {}
        self.error: Exception | None = None

    async def send(self, order: SendCommand) -> CommandStatus:
        if self.error is not None:
            raise self.error
        if self.registry.get(order.device_id) is None:
            raise UnknownDeviceError(f"no device {order.device_id} is paired here")
        self.orders.append(order)
        command_id = order.command_id or f"c-{len(self.orders)}"
        at = "2026-11-22T10:00:00.000Z"
        return self.known.setdefault(
            command_id,
            CommandStatus(
                command_id=command_id,
                device_id=order.device_id,
                action=order.action,
                state="queued",
                deliver=order.deliver,
                deliveries=0,
                settled=False,
                created_at=at,
                expires_at=at,
                history=[CommandEvent(state="queued", at=at)],
            ),
        )

    async def status(self, command_id: str) -> CommandStatus:
        try:
            return self.known[command_id]
        except KeyError:
            raise UnknownCommandError("no such command") from None

    async def cancel(self, command_id: str) -> CommandStatus:
        status = await self.status(command_id)
        if status.state != "queued":
            raise RequestError(f"the command is {status.state}", status=409, code="command_final")
        self.known[command_id] = status.model_copy(update={"state": "cancelled", "settled": True})
        return self.known[command_id]

    def open_count(self, device_id: str) -> int:
        return sum(1 for status in self.known.values() if status.device_id == device_id and not status.settled)


class NoFetcher:
    """Nothing can be fetched: files are put where they belong."""

    async def fetch(self, wish: Wish, part: Part, /) -> None:
        raise FirmwareError("there is no network")


FACTS = {
    "name": "gateway-1",
    "gateway_uid": "0b0e9d3c",
    "versions": {"appliance": "1.2.3", "Python": "3.11.2"},
    "uptime_s": 4000.0,
    "time": "2026-11-29T10:00:00.000Z",
    "names": ("gw1.factory.lan", "localhost"),
    "mqtt_port": 8883,
    "mqtt_tls": True,
    "http_port": 8000,
    "http_tls": True,
    "fingerprint": "AA:BB",
    "certificate_ends_at": "2049-11-22T00:00:00.000Z",
    "certificate_days": 8394,
    "disk": {"total_bytes": 64 << 30, "free_bytes": 3 << 30, "file_bytes": 1 << 20},
    "data_folder": "/var/lib/iiot-appliance",
    "memory_bytes": 80 << 20,
    "odoo": None,
    "odoo_database": None,
}


async def no_enrolment(odoo_url: str, code: str, database: str | None) -> Enrolled:
    raise OdooUnavailableError("there is no Odoo")


class TestClock(Clock):
    __test__ = False
    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Described(httpx.AsyncBaseTransport):
    """Every answer that any test gets must be one that ``/openapi.json`` tells of, and fit its schema."""

    def __init__(self, transport: httpx.AsyncBaseTransport, app: Starlette) -> None:
        self._transport = transport
        self._app = app
        self._document: dict[str, Any] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        if self._document is None:
            own = httpx.ASGITransport(self._app)  # from this machine, which no rate limit counts
            asked = await own.handle_async_request(httpx.Request("GET", "http://gw/openapi.json"))
            self._document = json.loads(await asked.aread())
        await check_answer(self._document, request, response)
        return response


def template_of(document: dict[str, Any], path: str) -> str | None:
    """The described path that fits; those without parameters first, as the router has it."""
    for template in sorted(document["paths"], key=lambda each: each.count("{")):
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            found: str = template
            return found
    return None


async def check_answer(document: dict[str, Any], request: httpx.Request, response: httpx.Response) -> None:
    """``AssertionError`` or jsonschema's ``ValidationError`` where the document does not tell of this answer."""
    template = template_of(document, request.url.path)
    method = "get" if request.method == "HEAD" else request.method.lower()
    if template is None or response.status_code == 405:
        assert response.status_code in (404, 405, 413, 400, 429), f"{request.url.path} is not described"
        return
    answers = document["paths"][template][method]["responses"]
    where = f"{request.method} {template}: {response.status_code}"
    assert str(response.status_code) in answers, f"{where} is not described"
    answer = answers[str(response.status_code)]
    media_type = response.headers.get("content-type", "").partition(";")[0]
    assert media_type in answer.get("content", {"": None}), f"{where} as {media_type!r} is not described"
    for header in answer.get("headers", {}):
        assert media_type != "application/problem+json" or header in response.headers, f"{where} lacks {header}"
    if media_type.endswith("json") and request.method != "HEAD":
        schema = {**answer["content"][media_type]["schema"], "components": document["components"]}
        body = await response.aread()
        for value in body.splitlines() if media_type == "application/x-ndjson" else [body]:
            jsonschema.validate(json.loads(value), schema, jsonschema.Draft202012Validator)


@dataclass
class World:
    """Everything behind the API, to look at and to break."""

    clock: TestClock
    database: Database
    buffer: Buffer
    registry: DeviceRegistry
    credentials: Credentials
    odoo: OdooSource
    commands: FakeCommands
    updates: OtaService
    firmware: FirmwareService
    files: FirmwareFiles
    presence: PresenceService
    services: WebServices
    health: Health = field(default_factory=lambda: Health(status="ok", details={"buffer": {"waiting": 0}}))

    def app(self, *, limits: WebLimits | None = None, **changes: Any) -> Starlette:
        return create_app(replace(self.services, **changes), limits=limits)

    def client(self, app: Starlette | None = None, *, address: str = "10.0.0.1") -> httpx.AsyncClient:
        served = app or self.app()
        transport = httpx.ASGITransport(served, client=(address, 50_000))
        return httpx.AsyncClient(transport=Described(transport, served), base_url="http://gw")

    async def keep(self, content: bytes) -> str:
        """Put a firmware file where it belongs; returns its SHA-256."""
        part = await self.files.begin("given", resume=False)
        await part.write(content)
        sha256 = await part.finish()
        part.close()
        return sha256

    async def link(self, sha256: str, size: int, device_id: str = "press-07") -> str:
        """Order an update with a file that is here; returns the link of its offer. The device must be paired."""
        params = {"url": "http://files/fw", "version": "2", "sha256": sha256, "size": size}
        order = {"device_id": device_id, "action": "start_update", "update_id": f"u-{device_id}", "params": params}
        await self.updates.send(SendUpdate.model_validate(order))
        async with asyncio.timeout(10):
            while (await self.updates.status(f"u-{device_id}")).state == "fetching":
                await asyncio.sleep(0)
        row = self.updates._by_device[device_id].row
        offer = json.loads(order_payload(row, self.updates._links))
        return str(offer["params"]["url"])

    async def pair(self, device_id: str, serial: str, **config: Any) -> Device:
        settled = DeviceConfig.model_validate({"device_id": device_id, **config})
        await self.registry.pair(
            Claim(serial=serial, token_digest=serial.encode(), request_id="r", config=settled, firmware_version="1.0.0")
        )
        device = self.registry.get(device_id)
        assert device is not None
        return device


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = TestClock()
    database = await Database.open(tmp_path, clock=clock)
    buffer = Buffer(database)
    await buffer.load()
    registry = DeviceRegistry(database=database, templates=TopicTemplates())
    credentials = Credentials(MASTER_KEY)
    odoo = OdooSource()
    pairing = PairingService(
        registry=registry,
        credentials=credentials,
        source=odoo,
        address=BrokerAddress("gw1.factory.lan", 8883, tls=True),
        ca_pem=CA_PEM,
        clock=clock,
    )
    commands = FakeCommands(registry)
    files = FirmwareFiles(tmp_path / "firmware", quota_bytes=64 << 20, most_bytes=32 << 20, keep_free_bytes=0)
    firmware = FirmwareService(files=files, fetcher=NoFetcher(), clock=clock)
    updates = OtaService(
        updates=Updates(database),
        devices=registry,
        firmware=firmware,
        links=FirmwareLinks(key=credentials.key("firmware"), base_url="http://gw"),
        clock=clock,
    )
    presence = PresenceService(clock=clock)

    async def counters(device_id: str) -> Mapping[str, Any]:
        refusals = [{"reason": "topic", "count": 1, "last_at_ms": 1, "last_topic": "else/<b>where</b>"}]
        counts = {"received": 5, "stored": 4, "parked": 0, "removed": 0, "refused": 1, "repeated": 0, "waiting": 1}
        return counts | {"refusals": refusals}

    async def ledger(*, search: str, after: str, limit: int) -> LedgerPage:
        return await database.run(lambda connection: read_page(connection, search=search, after=after, limit=limit))

    async def kinds() -> BufferKinds:
        try:
            return await database.run(lambda connection: read_kinds(connection, waiting=buffer.backlog().waiting))
        except StoreUnavailableError:
            return BufferKinds(None, None)

    letters = DeadLetters(database=database, buffer=buffer)

    async def figures() -> Figures:
        total, _ = await database.run(read_total)
        return Figures(
            version="1.2.3",
            store=StoreFigures(total=total, stock=await letters.stock()),
            backlog=buffer.backlog(),
            now_ms=clock.now_ms(),
            queued=database.queued,
            connections=3,
            connections_accepted=8,
            viewer_sessions=2,
            local_sessions=3,
            passed_on_dropped=5,
            passed_on_stalled=False,
            local_subscriptions_refused=1,
            devices_online=presence.online,
            devices_paired=len(registry),
            commands_open=1,
            updates_open=2,
            firmware_bytes=3 << 20,
            firmware_downloads=4,
            firmware_bytes_sent=5 << 20,
            uplink_up=False,
            uplink_alarm=True,
            uplink_batches=4,
            uplink_settled=2000,
            uplink_failures=9,
            uplink_consecutive_failures=6,
            disk={"total_bytes": 64 << 30, "free_bytes": 3 << 30, "file_bytes": 1 << 20},
            quota_bytes=4 << 30,
            commits=database.commits,
            readings_per_s=12.5,
            ledger_adds_up=True,
        )

    get_health: list[Callable[[], Health]] = []
    api_keys = ApiKeys(database=database, own_keys=[KEY, "another-key"], clock=clock)
    services = WebServices(
        name="gateway-1",
        version="1.2.3",
        clock=clock,
        api_keys=api_keys,
        registry=registry,
        credentials=credentials,
        pairing=pairing,
        push=ConfigPush(registry=registry, pairing=pairing, clock=clock),
        changes=DeviceService(registry=registry, database=database),
        commands=commands,
        updates=updates,
        firmware_files=files,
        firmware_downloads=firmware,
        presence=presence.status,
        counters=counters,
        kinds=kinds,
        backlog=lambda: Backlog(3, 1, clock.now_ms() - 2000, 17, 14),
        ledger=ledger,
        dead_letters=letters,
        metrics=figures,
        health=lambda: get_health[0](),
        ca_pem=CA_PEM,
        pages=PageServices(
            password=await asyncio.to_thread(PagePassword.open, tmp_path),
            peek=Peek(database),
            trends=Trends(look=lambda: None, folder=tmp_path, clock=clock),
            facts=lambda: FACTS,
            log_lines=lambda: ["2026-11-29T10:00:00.000Z INFO appliance: a line"],
            enrol=no_enrolment,
            restart=lambda: None,
        ),
    )
    world = World(
        clock, database, buffer, registry, credentials, odoo, commands, updates, firmware, files, presence, services
    )
    get_health.append(lambda: world.health)
    await files.load()
    works = {"pairing": pairing.run(), "updates": updates.run(), "firmware": firmware.run()}
    running = [asyncio.create_task(work, name=name) for name, work in works.items()]
    async with asyncio.timeout(10):
        while not updates._resumed.is_set() or firmware._clean:
            await asyncio.sleep(0)
    yield world
    for task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await files.close()
    await database.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.client() as client:
        yield client


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document of an error, checked for what every one of them must have."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status_code
    assert document["code"]
    assert document["title"]
    assert document["detail"]
    assert response.headers["cache-control"] == "no-store"
    if "retry_after_s" in document:
        assert response.headers["retry-after"] == str(document["retry_after_s"])
    return document
