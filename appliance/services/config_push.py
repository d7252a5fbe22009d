"""What paired devices are told over MQTT: their present configuration, when it has changed and when they ask.

A device that does not have its present configuration gets it as soon as it can be reached on its configuration topic,
and so does one that logs in with a secret for which there is a newer one. What a device was told and has taken is in
its row, so a restart forgets nothing; what is sent is always the present configuration, so nothing queues.

One delivery is in flight for a device, and of one configuration there is one on a connection. A device that comes back
again and again without acknowledging (it resets at each one, say) gets it three times, then once an hour.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from appliance.contract.device import ConfigRefused, PayloadError, encode, parse_config_request
from appliance.contract.times import Clock
from appliance.services.configuration import newer_secret, too_large
from appliance.services.delivery import Transmit, not_connected
from appliance.services.earlier_topics import EarlierTopics
from appliance.services.limits import FailureLimiter, Quiet
from appliance.services.pairing import PairingService
from appliance.services.tries import Tries
from appliance.store.devices import Device, DeviceNote, DeviceRegistry, Told

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushLimits:
    """Bounds of what goes out by itself, and of what a device can make the appliance do."""

    slice: int = 20
    """Deliveries before a pause: those who are told connect again, all at once if they are told at once."""
    pause_s: float = 0.1
    tries: int = 3
    """Deliveries of one configuration without acknowledgement; then one each ``retry_s``."""
    retry_s: float = 3600.0
    sweep_s: float = 60.0
    requests: int = 30
    """Of one device within ``requests_window_s``."""
    requests_window_s: float = 60.0


class _Content(NamedTuple):
    """What is to be told: the digest of a configuration, and the generation of a secret that is new to the device."""

    digest: bytes
    secret_of: int | None


class _Connection:
    __slots__ = ("done", "flight", "generation", "ready")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.ready = False
        self.flight: _Delivery | None = None
        self.done: _Content | None = None
        """What it has acknowledged, or cannot take."""


@dataclass(frozen=True, slots=True, eq=False)
class _Delivery:
    """An answer that was written and is not acknowledged."""

    content: _Content
    told: Told


class ConfigPush:
    """Told by the broker who connects and who can be reached; tells devices what they do not know yet."""

    def __init__(
        self, *, registry: DeviceRegistry, pairing: PairingService, clock: Clock, limits: PushLimits | None = None
    ) -> None:
        self.transmit: Transmit = not_connected
        self.delivered = 0
        """Configurations sent without having been asked for, since the start."""
        self._limits = limits or PushLimits()
        self._registry = registry
        self._pairing = pairing
        self._configuration = pairing.configuration
        self._notes = pairing.notes
        self._clock = clock
        self._connections: dict[str, _Connection] = {}
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._tries = Tries(most=self._limits.tries, retry_s=self._limits.retry_s, clock=clock)
        self._held: set[str] = set()
        self._problems: dict[str, str] = {}
        self._earlier = EarlierTopics(registry=registry, is_current=self.is_current, clock=clock)
        self._requests = FailureLimiter(
            most=self._limits.requests, window_s=self._limits.requests_window_s, clock=clock
        )
        self._quiet = Quiet(clock=clock)
        registry.changed.append(self._changed)
        registry.removed.append(self._removed)

    # --- for the broker --------------------------------------------------------------------------------------

    def logged_in(self, device_id: str, generation: int) -> None:
        """A device has logged in with the secret of this generation."""
        device = self._registry.get(device_id)
        if device is None:
            return
        self._connections[device_id] = _Connection(generation)
        self._notes.login(device, generation)
        told, taken = self._known(device)
        if told is not None and told.asked and told.generation <= generation and told != taken:
            # it has come with what it was told when it asked
            self._notes.add(device_id, DeviceNote(taken=told))
        self._earlier.logged_in(device)

    def device_ready(self, device_id: str) -> None:
        """The device has subscribed to its configuration topic, perhaps again."""
        connection = self._connections.get(device_id)
        if connection is not None:
            connection.ready = True
            self._look_soon(device_id)

    def device_gone(self, device_id: str) -> None:
        """Its connection has ended."""
        self._connections.pop(device_id, None)
        self._due.pop(device_id, None)
        self._held.discard(device_id)

    def accept_request(self, device_id: str, payload: bytes) -> None:
        """A paired connection asks: for its present configuration, or with a new token for a new secret."""
        device = self._registry.get(device_id)
        if device is None:
            return
        wait_s = self._requests.wait_s(device_id)
        if wait_s:
            # one answer more says so, then nothing until the window's end
            if self._quiet.due(f"requests {device_id}"):
                text = f"more than {self._limits.requests} requests in {self._limits.requests_window_s:g} s"
                self._reply(device_id, encode(ConfigRefused(code="rate_limited", message=text, retry_after_s=wait_s)))
            return
        self._requests.failed(device_id)
        try:
            request = parse_config_request(payload, own_serial=device.serial)
            if request.serial != device.serial:
                raise PayloadError("bad_request", "the serial number is another device's")
        except PayloadError as error:
            self._reply(device_id, encode(ConfigRefused(code="bad_request", message=error.message)))
            return
        self._notes.shown(device, firmware_version=request.firmware_version, hardware=request.hardware)
        if request.token is not None:
            asked_on = self._connections.get(device_id)
            self._pairing.serve(request, f"device {device_id}", partial(self._reply_on, device_id, asked_on))
            return
        connection = self._connections.get(device_id) or _Connection(device.generation)
        # being asked is no try: it listens
        self._send(device, connection, request_id=request.request_id, ca=bool(request.ca_pem), asked=True)

    def _reply_on(self, device_id: str, connection: _Connection | None, payload: bytes) -> None:
        """Answer on the connection that asked. What was asked of Odoo takes its time, and who has taken over meanwhile
        may have the old secret, but not the token. The one that asked repeats its request."""
        if connection is not None and self._connections.get(device_id) is connection:
            self._reply(device_id, payload)

    def _reply(self, device_id: str, payload: bytes) -> None:
        device = self._registry.get(device_id)
        if device is not None:
            self.transmit(device_id, device.topics.config_response, payload, redelivery=False, on_ack=_nothing)

    # --- for people ------------------------------------------------------------------------------------------

    def is_current(self, device: Device) -> bool:
        """Whether the device has its present configuration."""
        return self._has_taken(device, self._configuration.digest(device))

    def problem(self, device_id: str) -> str | None:
        """Why it cannot be told its configuration, if so."""
        return self._problems.get(device_id)

    # --- its own work ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell devices what they do not know, and end earlier topics, until cancelled."""
        limits = self._limits
        sweep_at = self._clock.monotonic() + limits.sweep_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(sweep_at - self._clock.monotonic(), 0.001)):
                    await self._wake.wait()
            self._wake.clear()
            while self._due:
                sent = sum(self._look(self._next_due()) for _ in range(min(limits.slice, len(self._due))))
                await asyncio.sleep(limits.pause_s * sent / limits.slice)
            if self._clock.monotonic() >= sweep_at:
                sweep_at = self._clock.monotonic() + limits.sweep_s
                await self.sweep()

    async def sweep(self) -> None:
        """Try again those who have been told too often, and end the earlier topics of those who have left them."""
        held, self._held = self._held, set()
        for device_id in held:
            self._look_soon(device_id)
        await self._earlier.sweep()

    def _next_due(self) -> str:
        device_id = next(iter(self._due))
        del self._due[device_id]
        return device_id

    def _look_soon(self, device_id: str) -> None:
        self._due[device_id] = None
        self._wake.set()

    def _look(self, device_id: str) -> bool:
        """Tell this device what it does not know, if it can be told now; whether something was sent."""
        device, connection = self._registry.get(device_id), self._connections.get(device_id)
        if device is None or connection is None or not connection.ready or not device.enabled:
            return False
        content = _Content(self._configuration.digest(device), newer_secret(device, connection.generation))
        if content.secret_of is None and self._has_taken(device, content.digest):
            self._tries.forget(device_id)
            return False
        if connection.flight is not None or content == connection.done:
            # what is newer goes out when the older one is acknowledged
            return False
        if not self._tries.allowed(device_id, content):
            self._held.add(device_id)
            return False
        if not self._send(device, connection):
            return False
        self._tries.made(device_id, content)
        self.delivered += 1
        return True

    def _send(
        self,
        device: Device,
        connection: _Connection,
        *,
        request_id: str | None = None,
        ca: bool = False,
        asked: bool = False,
    ) -> bool:
        device_id = device.device_id
        secret_of = newer_secret(device, connection.generation)
        told = self._configuration.told(device, generation=secret_of or connection.generation)
        content = _Content(told.digest, secret_of)
        payload = encode(self._configuration.answer(device, request_id=request_id, ca=ca, secret_of=secret_of))
        reason = too_large(device, payload)
        if reason:
            self._cannot_be_told(device_id, connection, content, reason)
            if asked:
                refused = ConfigRefused(request_id=request_id, code="bad_request", message=reason)
                self._reply(device_id, encode(refused))
            return False
        delivery = _Delivery(content, told)
        if connection.flight is None:
            connection.flight = delivery
        on_ack = partial(self._acknowledged, device_id, connection, delivery)
        if not self.transmit(device_id, device.topics.config_response, payload, redelivery=False, on_ack=on_ack):
            # told again once it can be reached
            connection.ready = False
            if connection.flight is delivery:
                connection.flight = None
            return False
        self._notes.add(device_id, DeviceNote(told=told))
        return True

    def _cannot_be_told(self, device_id: str, connection: _Connection, content: _Content, reason: str) -> None:
        self._problems[device_id] = reason
        connection.done = content
        if self._quiet.due(f"large {device_id}"):
            log.error("%s cannot be told its configuration over MQTT: %s", device_id, reason)

    def _acknowledged(self, device_id: str, connection: _Connection, delivery: _Delivery) -> None:
        if self._connections.get(device_id) is not connection:
            # it has connected again since, and may have been told something newer
            return
        if connection.flight is delivery:
            connection.flight = None
        connection.done = delivery.content
        self._notes.add(device_id, DeviceNote(taken=delivery.told))
        self._look_soon(device_id)

    # --- what changes ----------------------------------------------------------------------------------------

    def _changed(self, device: Device) -> None:
        self._problems.pop(device.device_id, None)
        if device.device_id in self._connections:
            self._look_soon(device.device_id)

    def _removed(self, device: Device) -> None:
        for memory in (self._connections, self._due, self._problems):
            memory.pop(device.device_id, None)
        self._held.discard(device.device_id)
        self._tries.forget(device.device_id)

    def _has_taken(self, device: Device, digest: bytes) -> bool:
        _, taken = self._known(device)
        return taken is not None and taken.digest == digest

    def _known(self, device: Device) -> tuple[Told | None, Told | None]:
        """What it was told last and what it has, also what is not on disk yet."""
        pending = self._notes.pending(device.device_id)
        return pending.told or device.told, pending.taken or device.taken


def _nothing() -> None:
    """Nobody waits for this acknowledgement."""
