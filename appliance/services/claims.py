"""Claims: a token becomes a device's identity, once, however often the question or the answer gets lost.

The order is what makes it safe. Odoo claims the token for (serial number, token, request id) and answers a repeat of
these three alike; the claim is then committed here; only then is the device answered. Whatever breaks in between, the
device repeats its request and the same three lead to the same secret, without Odoo as soon as the claim is committed.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from dataclasses import dataclass
from typing import Protocol

from appliance.contract.device import ConfigErrorCode, ConfigRequest
from appliance.contract.odoo import DeviceConfig
from appliance.contract.times import Clock
from appliance.errors import (
    OdooAlarmError,
    OdooRefusedError,
    OdooUnavailableError,
    StoreUnavailableError,
    TopicsRefusedError,
)
from appliance.services.credentials import Credentials
from appliance.services.limits import FailureLimiter, Quiet, address_key
from appliance.store.device_rows import Claim, Pairing
from appliance.store.devices import DeviceRegistry

log = logging.getLogger(__name__)

_STRANGER = "serial number and token do not match a device that waits for pairing"
_REFUSALS: dict[str, tuple[ConfigErrorCode, str]] = {
    # what Odoo says, what the device is told: a stranger must not learn which serial numbers exist
    "invalid_token": ("invalid_token", _STRANGER),
    "unknown_serial": ("invalid_token", _STRANGER),
    "token_used": ("token_used", "this token has been used; ask for a new one in Odoo"),
    "token_expired": ("token_expired", "this token has expired; ask for a new one in Odoo"),
    "device_disabled": ("device_disabled", "this device is switched off in Odoo"),
    "rate_limited": ("rate_limited", "too many attempts"),
}
_FAILED_ATTEMPTS = ("invalid_token", "token_used", "token_expired", "bad_request")


class ConfigSource(Protocol):
    """Who knows which token belongs to which device: Odoo, through the uplink."""

    async def fetch_config(self, request: ConfigRequest) -> DeviceConfig:
        """Claim the token for this request, or repeat the claim.

        :class:`OdooRefusedError` with a code, :class:`OdooUnavailableError`, :class:`OdooAlarmError`.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingLimits:
    """Bounds of everything that a stranger can make the appliance do."""

    retry_after_s: int = 30
    """What a device is told to wait when Odoo cannot be asked."""
    answer_wait_s: float = 20.0
    """So long one request waits for Odoo before it is told ``pending``; the claim itself goes on."""
    odoo_calls: int = 4
    """Claims at Odoo at once."""
    open_claims: int = 256
    """Claims that run or wait for their turn."""
    open_requests: int = 256
    """Requests over MQTT that have no answer yet."""
    failures_per_address: int = 20
    failures_per_serial: int = 10
    failure_window_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Granted:
    """The device may have this secret."""

    device_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not, and why."""

    code: ConfigErrorCode
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """Nobody can say now."""

    retry_after_s: int


Outcome = Granted | Refused | Pending
_Key = tuple[str, bytes, str]


class ClaimDesk:
    """Decides what a request with a token leads to. Identical requests share one claim, as they share its outcome."""

    def __init__(
        self,
        *,
        registry: DeviceRegistry,
        credentials: Credentials,
        source: ConfigSource | None,
        clock: Clock,
        limits: PairingLimits,
    ) -> None:
        self.tasks: asyncio.TaskGroup | None = None
        """Who owns the claims' tasks; while there is nobody, every request is ``pending``."""
        self._registry = registry
        self._credentials = credentials
        self._source = source
        self._limits = limits
        window_s = limits.failure_window_s
        self._addresses = FailureLimiter(most=limits.failures_per_address, window_s=window_s, clock=clock)
        self._serials = FailureLimiter(most=limits.failures_per_serial, window_s=window_s, clock=clock)
        self._claims: dict[_Key, asyncio.Task[Outcome]] = {}
        self._calls = asyncio.Semaphore(limits.odoo_calls)
        self._quiet = Quiet(clock=clock)

    def blocked(self, source_address: str) -> Refused | None:
        """Whether this address has failed too often of late."""
        wait_s = self._addresses.wait_s(address_key(source_address))
        if not wait_s:
            return None
        if self._quiet.due("blocked"):
            log.warning("nobody is paired from %s for %d s: too many failed attempts", source_address, wait_s)
        return Refused("rate_limited", "too many failed attempts from this address", wait_s)

    def failed(self, source_address: str) -> None:
        """Count a failed attempt of this address."""
        self._addresses.failed(address_key(source_address))

    async def ask(self, request: ConfigRequest, *, source_address: str) -> Outcome:
        """What this request leads to, within ``answer_wait_s``. Raises nothing."""
        outcome = self.blocked(source_address) or await self._outcome(request)
        if isinstance(outcome, Refused) and outcome.code in _FAILED_ATTEMPTS:
            self.failed(source_address)
            log.warning("%s, asking from %s, was refused: %s", request.serial, source_address, outcome.code)
        return outcome

    async def _outcome(self, request: ConfigRequest) -> Outcome:
        if request.token is None:
            return Refused("bad_request", "a token is needed to pair")
        key = (
            request.serial,
            self._credentials.token_digest(request.serial, request.token),
            request.request_id or self._credentials.request_id(request.serial, request.token),
        )
        claim = self._claims.get(key)
        if claim is None:
            if self.tasks is None or len(self._claims) >= self._limits.open_claims:
                return Pending(self._limits.retry_after_s)
            claim = self.tasks.create_task(self._claim(key, request), name=f"claim of {request.serial}")
            self._claims[key] = claim
            claim.add_done_callback(lambda _: self._claims.pop(key, None))
        # the claim outlives whoever asked: what Odoo has granted must be committed
        done, _ = await asyncio.wait({claim}, timeout=self._limits.answer_wait_s)
        if not done or claim.cancelled():
            return Pending(self._limits.retry_after_s)
        return claim.result()

    async def _claim(self, key: _Key, request: ConfigRequest) -> Outcome:
        try:
            return await self._settle(key, request)
        except (OdooUnavailableError, OdooAlarmError, StoreUnavailableError) as error:
            # strangers may ask as often as they like, and make up serial numbers
            if self._quiet.due(type(error).__name__):
                log.warning("%s cannot be paired now: %s", request.serial, error)
            wished = error.retry_after_s if isinstance(error, OdooUnavailableError) else None
            return Pending(self._limits.retry_after_s if wished is None else min(max(math.ceil(wished), 1), 3600))
        except OdooRefusedError as error:
            log.warning("Odoo refused to pair %s: %s (%.200s)", request.serial, error.code, error)
            code, message = _REFUSALS.get(error.code, ("bad_request", f"Odoo refused: {str(error)[:200]}"))
            if code in _FAILED_ATTEMPTS:
                self._serials.failed(request.serial)
            return Refused(code, message, self._limits.retry_after_s if code == "rate_limited" else None)
        except TopicsRefusedError as error:
            log.error("%s cannot be paired until its profile in Odoo is mended: %s", request.serial, error)
            return Refused("device_disabled", f"{error}; mend the device's profile in Odoo, then ask again")
        except Exception:
            # a fault of ours with one device must not end the pairing of all others
            log.exception("pairing %s failed unexpectedly", request.serial)
            return Pending(self._limits.retry_after_s)

    async def _settle(self, key: _Key, request: ConfigRequest) -> Outcome:
        serial, digest, request_id = key
        pairing = await self._registry.find_pairing(serial, digest)
        if pairing is not None:
            return self._judge(pairing, request, request_id)
        if self._source is None:
            return Pending(self._limits.retry_after_s)
        async with self._calls:
            # asked only now: guesses that came in one burst have been counted meanwhile
            wait_s = self._serials.wait_s(serial)
            if wait_s:
                return Refused("rate_limited", "too many failed attempts for this serial number", wait_s)
            asked = request.model_copy(update={"request_id": request_id, "ca_pem": None})
            config = await self._source.fetch_config(asked)
        claim = Claim(
            serial=serial,
            token_digest=digest,
            request_id=request_id,
            config=config,
            firmware_version=request.firmware_version,
            hardware=request.hardware,
        )
        pairing = await self._registry.pair(claim)
        log.info("paired %s as %s, generation %d", serial, pairing.device_id, pairing.generation)
        return self._judge(pairing, request, request_id)

    def _judge(self, pairing: Pairing, request: ConfigRequest, request_id: str) -> Outcome:
        """Whether a claim that is committed here belongs to this request, and its secret still opens the door."""
        device = self._registry.get(pairing.device_id)
        same = hmac.compare_digest(pairing.request_id.encode(), request_id.encode("utf-8", "replace"))
        # an id that went to another serial number accepts none of its earlier generations
        if not same or device is None or not device.accepts(pairing.generation):
            return Refused(*_REFUSALS["token_used"])
        own = self._credentials.request_id(request.serial, request.token or "")
        if request_id == own and device.login_generation >= pairing.generation:
            # nobody but token and serial number vouches for this repeat: it ends with the first login
            return Refused(*_REFUSALS["token_used"])
        if not device.enabled:
            return Refused("device_disabled", f"this device may not connect: {device.disabled_reason}")
        return Granted(device.device_id, pairing.generation)
