"""Configuration requests: with a token, over HTTP and MQTT; and of paired devices with their secret, over HTTP."""

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
from appliance.services.claims import ClaimDesk, ConfigSource, Granted, Outcome, PairingLimits, Pending, Refused
from appliance.services.configuration import BrokerAddress, Configuration, newer_secret, too_large
from appliance.services.credentials import Credentials
from appliance.services.device_notes import DeviceNotes
from appliance.store.devices import Device, DeviceNote, DeviceRegistry

__all__ = ["BrokerAddress", "ConfigSource", "PairingLimits", "PairingService"]

log = logging.getLogger(__name__)

SMALL_ANSWER_BYTES = 1024
"""Answers without certificate stay below this (contract); longer ones come of long names or many settings."""


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
        self.configuration = Configuration(credentials=credentials, address=address, ca_pem=ca_pem, clock=clock)
        self.notes = DeviceNotes(registry)
        self._claims = ClaimDesk(
            registry=registry, credentials=credentials, source=source, clock=clock, limits=self._limits
        )
        self._requests = 0
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the service's tasks until cancelled; without it every request with a token is ``pending``."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = self._claims.tasks = tasks
            try:
                await self.notes.run()
            finally:
                self._tasks = self._claims.tasks = None

    async def answer(self, request: ConfigRequest, *, source_address: str, ca: bool = True) -> ConfigAnswer:
        """Answer a device that shows a token; ``ca``: with certificate unless the request says otherwise.

        Raises nothing: every failure is an answer.
        """
        outcome = await self._claims.ask(request, source_address=source_address)
        return self._as_answer(outcome, request, ca=ca)

    def current(self, device: Device, *, generation: int, request_id: str | None = None, ca: bool = False) -> ConfigOk:
        """The present configuration, for a device that asks over HTTP with the secret of ``generation``. A newer secret
        is in it only if it is new to the device."""
        secret_of = newer_secret(device, generation)
        answer = self.configuration.answer(device, request_id=request_id, ca=ca, secret_of=secret_of)
        # nobody knows whether this answer arrives. A login with a secret that it had from nowhere else proves it; a
        # device that cannot be told over MQTT is taken at its word; all others are told once more when they log in
        new_to_it = secret_of is not None and (device.told is None or device.told.generation < secret_of)
        proven = new_to_it or too_large(device, encode(answer)) is not None
        told = self.configuration.told(device, generation=secret_of or generation, asked=proven)
        self.notes.add(device.device_id, DeviceNote(told=told))
        return answer

    def _as_answer(self, outcome: Outcome, request: ConfigRequest, *, ca: bool) -> ConfigAnswer:
        request_id = request.request_id
        match outcome:
            case Granted(device_id, generation):
                device = self._registry.get(device_id)
                if device is None or device.serial != request.serial:
                    # it changed hands in this very moment: the repeat will say how
                    return ConfigPending(request_id=request_id, retry_after_s=1)
                wanted = ca if request.ca_pem is None else request.ca_pem
                proven = device.login_generation < generation
                told = self.configuration.told(device, generation=generation, asked=proven)
                self.notes.add(device_id, DeviceNote(told=told))
                return self.configuration.answer(device, request_id=request_id, ca=wanted, secret_of=generation)
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
        self.serve(request, source_address, reply)

    def serve(self, request: ConfigRequest, source_address: str, reply: Callable[[bytes], None]) -> None:
        """Answer a request with a token in the background, ``pending`` at once where too many have no answer yet."""
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
            reason = too_large(device, payload)
            if reason:
                log.error("%s cannot be told its configuration over MQTT: %s", device.device_id, reason)
                payload = encode(ConfigRefused(request_id=answer.request_id, code="bad_request", message=reason))
            elif len(payload) >= SMALL_ANSWER_BYTES and answer.mqtt.ca_pem is None:
                log.warning(
                    "the configuration of %s has %d bytes, small clients drop it", device.device_id, len(payload)
                )
        reply(payload)

    # --- what devices show of themselves ---------------------------------------------------------------------

    def note_login(self, device_id: str, generation: int) -> None:
        """The device has proved that it has the secret of this generation: the earlier ones end, in the background."""
        device = self._registry.get(device_id)
        if device is not None:
            self.notes.login(device, generation)
