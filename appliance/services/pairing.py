"""Configuration requests: of unpaired devices with a token, of paired ones with their secret; over HTTP and MQTT."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from appliance.contract.device import (
    ConfigAnswer,
    ConfigOk,
    ConfigPending,
    ConfigRefused,
    ConfigRequest,
    PayloadError,
    encode,
    parse_config_request,
)
from appliance.contract.times import Clock
from appliance.errors import StoreUnavailableError
from appliance.services.claims import ClaimDesk, ConfigSource, Granted, Outcome, PairingLimits, Pending, Refused
from appliance.services.configuration import BrokerAddress, Configuration
from appliance.services.credentials import Credentials
from appliance.store.devices import Device, DeviceNote, DeviceRegistry

__all__ = ["BrokerAddress", "ConfigSource", "PairingLimits", "PairingService"]

log = logging.getLogger(__name__)

SMALL_ANSWER_BYTES = 1024
"""Answers without certificate stay below this (contract); longer ones come of long names or many settings."""
NOTES_PER_JOB = 200


class PairingService:
    """Answers configuration requests. Over HTTP an answer carries the authority's certificate unless the request says
    ``"ca_pem": false``, over MQTT only if it says ``"ca_pem": true``."""

    def __init__(
        self,
        *,
        registry: DeviceRegistry,
        credentials: Credentials,
        source: ConfigSource | None,
        address: BrokerAddress,
        ca_pem: str,
        clock: Clock,
        limits: PairingLimits | None = None,
    ) -> None:
        """``source`` is ``None`` where no Odoo is configured: every new token is then ``pending``."""
        self._limits = limits or PairingLimits()
        self._registry = registry
        self._configuration = Configuration(credentials=credentials, address=address, ca_pem=ca_pem, clock=clock)
        self._claims = ClaimDesk(
            registry=registry, credentials=credentials, source=source, clock=clock, limits=self._limits
        )
        self._requests = 0
        self._notes: dict[str, DeviceNote] = {}
        self._noted = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the service's tasks until cancelled; without it every request with a token is ``pending``."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = self._claims.tasks = tasks
            try:
                await self._write_notes()
            finally:
                self._tasks = self._claims.tasks = None

    async def answer(self, request: ConfigRequest, *, source_address: str, ca: bool = True) -> ConfigAnswer:
        """Answer a device that shows a token; ``ca``: with certificate unless the request says otherwise.

        Raises nothing: every failure is an answer.
        """
        outcome = await self._claims.ask(request, source_address=source_address)
        return self._as_answer(outcome, request, ca=ca)

    def current(self, device: Device, *, request_id: str | None = None, ca: bool = False) -> ConfigOk:
        """The present configuration of a device known by its secret; the secret itself is not in it."""
        return self._configuration.answer(device, request_id=request_id, ca=ca)

    def _as_answer(self, outcome: Outcome, request: ConfigRequest, *, ca: bool) -> ConfigAnswer:
        request_id = request.request_id
        match outcome:
            case Granted(device_id, generation):
                device = self._registry.get(device_id)
                if device is None or device.serial != request.serial:
                    # it changed hands in this very moment: the repeat will say how
                    return ConfigPending(request_id=request_id, retry_after_s=1)
                wanted = ca if request.ca_pem is None else request.ca_pem
                return self._configuration.answer(device, request_id=request_id, ca=wanted, secret_of=generation)
            case Refused(code, message, retry_after_s):
                return ConfigRefused(request_id=request_id, code=code, message=message, retry_after_s=retry_after_s)
            case Pending(retry_after_s):
                return ConfigPending(request_id=request_id, retry_after_s=retry_after_s)

    # --- over MQTT -------------------------------------------------------------------------------------------

    def accept_request(self, serial: str, payload: bytes, source_address: str, reply: Callable[[bytes], None]) -> None:
        """An unpaired connection, named ``serial``, asks. ``reply`` goes to that connection and to no other."""
        blocked = self._claims.blocked(source_address)
        if blocked:
            reply(
                encode(ConfigRefused(code=blocked.code, message=blocked.message, retry_after_s=blocked.retry_after_s))
            )
            return
        try:
            request = parse_config_request(payload)
            if request.serial != serial:
                raise PayloadError("bad_request", "the serial number is not this connection's client id")
        except PayloadError as error:
            self._claims.failed(source_address)
            reply(encode(ConfigRefused(code="bad_request", message=error.message)))
            return
        self._serve(request, source_address, reply)

    def accept_paired_request(self, device_id: str, payload: bytes, reply: Callable[[bytes], None]) -> None:
        """A paired connection asks: for its present configuration, or with a new token for a new secret."""
        device = self._registry.get(device_id)
        if device is None:
            return
        try:
            request = parse_config_request(payload, own_serial=device.serial)
            if request.serial != device.serial:
                raise PayloadError("bad_request", "the serial number is another device's")
        except PayloadError as error:
            reply(encode(ConfigRefused(code="bad_request", message=error.message)))
            return
        self.note_request(device, request)
        if request.token is not None:
            self._serve(request, f"device {device_id}", reply)
        else:
            answer = self.current(device, request_id=request.request_id, ca=bool(request.ca_pem))
            self._send(answer, device, reply)

    def _serve(self, request: ConfigRequest, source_address: str, reply: Callable[[bytes], None]) -> None:
        if self._tasks is None or self._requests >= self._limits.open_requests:
            reply(encode(ConfigPending(request_id=request.request_id, retry_after_s=self._limits.retry_after_s)))
            return
        self._requests += 1
        self._tasks.create_task(self._reply(request, source_address, reply), name=f"request of {request.serial}")

    async def _reply(self, request: ConfigRequest, source_address: str, reply: Callable[[bytes], None]) -> None:
        try:
            answer = await self.answer(request, source_address=source_address, ca=False)
            self._send(answer, self._registry.by_serial(request.serial), reply)
        finally:
            self._requests -= 1

    def _send(self, answer: ConfigAnswer, device: Device | None, reply: Callable[[bytes], None]) -> None:
        payload = encode(answer)
        if isinstance(answer, ConfigOk) and device is not None:
            most = device.config.max_packet_bytes
            # fixed header, topic with its length, packet id (MQTT 3.1.1, section 3.3)
            packet_bytes = 5 + 2 + len(device.topics.config_response.encode()) + 2 + len(payload)
            if most is not None and packet_bytes > most:
                text = f"the answer has {packet_bytes} bytes, the device's profile allows {most}; ask over HTTP"
                log.error("%s cannot be told its configuration over MQTT: %s", device.device_id, text)
                payload = encode(ConfigRefused(request_id=answer.request_id, code="bad_request", message=text))
            elif len(payload) >= SMALL_ANSWER_BYTES and answer.mqtt.ca_pem is None:
                log.warning(
                    "the configuration of %s has %d bytes, small clients drop it", device.device_id, len(payload)
                )
        reply(payload)

    # --- what devices show of themselves ---------------------------------------------------------------------

    def note_login(self, device_id: str, generation: int) -> None:
        """The device has proved that it has the secret of this generation: the earlier ones end, in the background."""
        device = self._registry.get(device_id)
        if device is not None and (device.login_generation < generation or device.valid_from < generation):
            self._note(device_id, DeviceNote(generation=generation))

    def note_request(self, device: Device, request: ConfigRequest) -> None:
        """Keep the firmware version and the hardware that a device known by its secret has named."""
        firmware_version, hardware = request.firmware_version, request.hardware
        if (firmware_version or device.firmware_version) != device.firmware_version or (
            hardware or device.hardware
        ) != device.hardware:
            self._note(device.device_id, DeviceNote(firmware_version=firmware_version, hardware=hardware))

    def _note(self, device_id: str, note: DeviceNote) -> None:
        """Remember until it is written; there is one note per paired device at most."""
        before = self._notes.get(device_id, DeviceNote())
        self._notes[device_id] = DeviceNote(
            generation=max(note.generation or 0, before.generation or 0) or None,
            firmware_version=note.firmware_version or before.firmware_version,
            hardware=note.hardware or before.hardware,
        )
        self._noted.set()

    async def _write_notes(self) -> None:
        while True:
            await self._noted.wait()
            self._noted.clear()
            while self._notes:
                some = {device_id: self._notes.pop(device_id) for device_id in list(self._notes)[:NOTES_PER_JOB]}
                try:
                    await self._registry.note(some)
                except StoreUnavailableError as error:
                    # the device shows it again at its next login
                    log.warning("what %d devices showed of themselves was not stored: %s", len(some), error)
