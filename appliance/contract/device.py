"""What devices send and receive: configuration, telemetry, commands and OTA, validated where they enter."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json, to_json

from appliance.contract.times import device_time
from appliance.contract.topics import DEVICE_ID_PATTERN, SERIAL_PATTERN

DeviceId = Annotated[str, StringConstraints(pattern=f"^{DEVICE_ID_PATTERN}$")]
Serial = Annotated[str, StringConstraints(pattern=f"^{SERIAL_PATTERN}$")]
MSG_ID_CHARACTERS = 64

ConfigErrorCode = Literal[
    "bad_request",
    "unknown_serial",
    "invalid_token",
    "token_used",
    "token_expired",
    "device_disabled",
    "rate_limited",
]


class PayloadError(ValueError):
    """A payload that the contract does not allow; the text says why, without repeating the payload."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ConfigRequest(_Body):
    """A device asks for its configuration; ``token`` only for pairing.

    ``ca_pem`` says whether the answer is to carry the authority's certificate. Left out, an answer over HTTP carries
    it and one over MQTT does not: who asks over MQTT has checked it already or cannot take so large a packet.
    """

    serial: Serial
    token: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(default=None, repr=False)
    request_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    firmware_version: Annotated[str, StringConstraints(max_length=64)] | None = None
    hardware: Annotated[str, StringConstraints(max_length=64)] | None = None
    ca_pem: bool | None = None


class MqttAccess(_Body):
    """Where and as whom a device connects; ``password`` only when it is new to the device."""

    host: str
    port: int
    tls: bool
    client_id: str
    username: str
    password: str | None = Field(default=None, repr=False)
    ca_pem: str | None = None


class ConfigOk(_Body):
    """The configuration of one device."""

    status: Literal["ok"] = "ok"
    request_id: str | None = None
    device_id: DeviceId
    config_version: int
    mqtt: MqttAccess
    topics: dict[str, str]
    settings: dict[str, Any]
    local_topics: dict[str, list[str]] | None = None
    """Filters to ``publish`` to and to ``subscribe`` to beside ``topics``; left out where the profile grants none."""
    time: str


class ConfigPending(_Body):
    """Odoo cannot be asked now: ask again after ``retry_after_s`` seconds."""

    status: Literal["pending"] = "pending"
    request_id: str | None = None
    retry_after_s: int


class ConfigRefused(_Body):
    """The request was refused for good, or (``rate_limited``) for a while."""

    status: Literal["error"] = "error"
    request_id: str | None = None
    code: ConfigErrorCode
    message: str
    retry_after_s: int | None = None


ConfigAnswer = ConfigOk | ConfigPending | ConfigRefused


def encode(body: BaseModel) -> bytes:
    """A body as compact JSON; fields that are ``None`` are left out."""
    return to_json(body, exclude_none=True)


def _first_error(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where}: {detail['msg']}" if where else str(detail["msg"])


def parse_config_request(payload: bytes, *, own_serial: str | None = None) -> ConfigRequest:
    """Read a configuration request; ``PayloadError`` with code ``bad_request`` says what is wrong.

    ``own_serial`` is that of a device known by its secret: it need not name itself, nor send more than an empty
    payload.
    """
    try:
        value = from_json(payload or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise PayloadError("bad_request", f"not JSON: {error}") from None
    if own_serial is not None and isinstance(value, dict):
        value.setdefault("serial", own_serial)
    try:
        return ConfigRequest.model_validate(value)
    except ValidationError as error:
        raise PayloadError("bad_request", _first_error(error)) from None


class Reading(msgspec.Struct, frozen=True):
    """One reading: its JSON, its own time if it has one, the verdict on that, and its identity if it has one."""

    payload: bytes
    at_ms: int | None = None
    flags: int = 0
    msg_id: str | None = None


class _Reserved(msgspec.Struct):
    """The two keys of a reading that mean something here."""

    ts: Any = msgspec.UNSET
    msg_id: Any = msgspec.UNSET


_reserved_keys = msgspec.json.Decoder(_Reserved).decode
PLAIN_BRACKETS, PLAIN_BYTES = 100, 4096
"""A payload with more is read in full, where the depth of nesting and the digits of a number have a limit."""
MOST_READINGS = 2000
"""In one array: each becomes a row, and reading them must not hold up everybody else."""


def parse_telemetry(payload: bytes, received_at_ms: int) -> list[Reading]:
    """Split a telemetry payload into its readings: an object is one, an array of objects one each.

    Any other JSON is one reading as it stands. ``PayloadError`` with code ``not_json`` if it is not JSON, and
    ``too_many_readings`` if an array holds more than ``MOST_READINGS``.
    """
    if len(payload) > PLAIN_BYTES:
        return _parse_in_full(payload, received_at_ms)
    try:
        # the whole text is checked, but only what is asked for becomes Python objects: a quarter of the time
        found = _reserved_keys(payload)
        plain = payload.count(b"{") + payload.count(b"[") <= PLAIN_BRACKETS
        if not payload.isascii():
            payload.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        plain = False
    if not plain:
        return _parse_in_full(payload, received_at_ms)
    return [_reading(payload, found.ts, found.msg_id, received_at_ms)]


def _parse_in_full(payload: bytes, received_at_ms: int) -> list[Reading]:
    try:
        value = from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        raise PayloadError("not_json", f"not JSON: {error}") from None
    if type(value) is dict:
        return [_reading(payload, *_reserved(value), received_at_ms)]
    if type(value) is list and value and all(type(item) is dict for item in value):
        if len(value) > MOST_READINGS:
            raise PayloadError(
                "too_many_readings", f"an array of {len(value)} readings; {MOST_READINGS} at most in one message"
            )
        # 1e999 is JSON, but reads as infinity, which JSON cannot write
        return [_reading(to_json(item, inf_nan_mode="null"), *_reserved(item), received_at_ms) for item in value]
    return [Reading(payload)]


def _reserved(value: dict[str, Any]) -> tuple[Any, Any]:
    return value.get("ts", msgspec.UNSET), value.get("msg_id", msgspec.UNSET)


def _reading(payload: bytes, ts: Any, msg_id: Any, received_at_ms: int) -> Reading:
    if ts is msgspec.UNSET and msg_id is msgspec.UNSET:
        return Reading(payload)
    at_ms, flags = (None, 0) if ts is msgspec.UNSET else device_time(ts, received_at_ms)
    return Reading(payload, at_ms, int(flags), None if msg_id is msgspec.UNSET else _msg_id(msg_id))


def _msg_id(value: object) -> str | None:
    """A usable message identity as text, so that 7 and "7" are the same; anything unusable is no identity."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    return text if 0 < len(text) <= MSG_ID_CHARACTERS else None


class CommandResponse(_Body):
    """A device's answer to a command; without ``command_id`` it answers the oldest unanswered one."""

    command_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    status: Literal["ok", "error", "in_progress"]
    result: Any = None
    error: str | None = None


OtaState = Literal[
    "accepted",
    "downloading",
    "downloaded",
    "verified",
    "installing",
    "rebooting",
    "installed",
    "failed",
    "rolled_back",
    "already_installed",
    "cancelled",
]


class OtaStatus(_Body):
    """How far a firmware update has come; ``progress`` in percent."""

    update_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    state: OtaState
    progress: Annotated[float, Field(ge=0, le=100)] | None = None
    version: Annotated[str, StringConstraints(max_length=64)] | None = None
    error: str | None = None


_BodyT = TypeVar("_BodyT", bound=_Body)


def parse_body(model: type[_BodyT], payload: bytes) -> _BodyT:
    """Read a device's JSON as ``model``; ``PayloadError`` (``not_json`` or ``invalid``) says what is wrong."""
    try:
        value = from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        raise PayloadError("not_json", f"not JSON: {error}") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise PayloadError("invalid", _first_error(error)) from None
