"""``POST /api/v1/config/download``: a device asks for its configuration, with a token or with its secret."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.device import ConfigAnswer, ConfigErrorCode, ConfigOk, ConfigPending, ConfigRequest, encode
from appliance.contract.problems import Problem, ProblemCode
from appliance.errors import RequestError
from appliance.services.limits import FailureLimiter
from appliance.store.devices import Device
from appliance.web.auth import KeyGuard, basic_credentials, source_address
from appliance.web.bodies import json_response, parse, read_json
from appliance.web.problems import problem_response
from appliance.web.routes import describes
from appliance.web.services import WebServices

_REFUSALS: dict[ConfigErrorCode, tuple[int, ProblemCode]] = {
    "bad_request": (400, "bad_request"),
    "unknown_serial": (403, "invalid_token"),
    "invalid_token": (403, "invalid_token"),
    "token_used": (410, "token_used"),
    "token_expired": (410, "token_expired"),
    "device_disabled": (403, "device_disabled"),
    "rate_limited": (429, "rate_limited"),
}
RATE_LIMITED_RETRY_S = 30
MOST_PER_DEVICE, WINDOW_S = 30, 60.0
"""A device that asks over and over again, having shown its secret."""
MOST_BYTES = 16 * 1024
"""Of a request; strangers send it, and reading a megabyte of JSON holds everybody else up."""


class ConfigRoutes:
    """The configuration download."""

    def __init__(self, services: WebServices, guard: KeyGuard) -> None:
        self._services = services
        self._guard = guard
        self._asked = FailureLimiter(most=MOST_PER_DEVICE, window_s=WINDOW_S, clock=services.clock)

    @describes(
        ConfigOk,
        body=ConfigRequest,
        body_optional=True,
        security=("device",),
        problems={
            401: "the device's secret is not valid",
            403: "the token is not valid, or the device is disabled",
            410: "the token was used, or is too old",
            503: "Odoo cannot be asked now; Retry-After says when to come again",
        },
    )
    async def download(self, request: Request) -> Response:
        """A token in the body pairs; HTTP Basic (device id, secret) asks for the present configuration."""
        basic = basic_credentials(request)
        if basic is None:
            asked = parse(ConfigRequest, await read_json(request, most_bytes=MOST_BYTES))
            answer = await self._services.pairing.answer(asked, source_address=source_address(request))
            return _response(answer)
        device_id, secret = basic
        device = self._services.registry.get(device_id)
        generation = None if device is None else self._services.credentials.accepted_generation(device, secret)
        if device is None or generation is None:
            return self._guard.refusal(request, "wrong", scheme="Basic")
        if not device.enabled:
            detail = f"this device may not connect: {device.disabled_reason}"
            return problem_response(Problem(403, "device_disabled", detail))
        wait_s = self._asked.wait_s(device_id)
        if wait_s:
            detail = f"this device has asked {MOST_PER_DEVICE} times within {WINDOW_S:g} s"
            return problem_response(Problem(429, "rate_limited", detail, retry_after_s=wait_s))
        self._asked.failed(device_id)
        return await self._serve_paired(request, device, generation)

    async def _serve_paired(self, request: Request, device: Device, generation: int) -> Response:
        value = {"serial": device.serial, **await read_json(request, empty={}, most_bytes=MOST_BYTES)}
        asked = parse(ConfigRequest, value)
        if asked.serial != device.serial:
            raise RequestError("the serial number is another device's")
        pairing = self._services.pairing
        pairing.note_login(device.device_id, generation)
        if asked.token is not None:
            return _response(await pairing.answer(asked, source_address=source_address(request)))
        pairing.notes.shown(device, firmware_version=asked.firmware_version, hardware=asked.hardware)
        ca = asked.ca_pem is not False
        return _response(pairing.current(device, generation=generation, request_id=asked.request_id, ca=ca))


def _response(answer: ConfigAnswer) -> Response:
    if isinstance(answer, ConfigOk):
        return json_response(encode(answer))
    extra = {} if answer.request_id is None else {"request_id": answer.request_id}
    if isinstance(answer, ConfigPending):
        detail = "Odoo cannot be asked now; ask again later"
        return problem_response(Problem(503, "pending", detail, retry_after_s=answer.retry_after_s, extra=extra))
    status, code = _REFUSALS[answer.code]
    retry_after_s = (answer.retry_after_s or RATE_LIMITED_RETRY_S) if status == 429 else None
    return problem_response(Problem(status, code, answer.message, retry_after_s=retry_after_s, extra=extra))
