"""Bodies between appliance and Odoo: configuration, batches of messages and a result for each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from appliance.contract.command import LONGEST_EXPIRY_S
from appliance.contract.device import DeviceId
from appliance.contract.times import clock_fields, rfc3339, time_of
from appliance.contract.topics import LocalTopics

CONTRACT_VERSION = 1

CONFIG_PATH = "/iiot/config"
WEBHOOK_PATH = "/iiot/webhook"

DEFAULT_COMMAND_TEMPLATE = '{"action": "{{ action }}", "params": {{ params | tojson }}}'
DEFAULT_COMMAND_EXPIRY_S = 60.0
DEFAULT_RESPONSE_LIMIT_S = 60.0


class Kind(IntEnum):
    """What a stored message is. The number is what the buffer file holds: never change one, only add."""

    TELEMETRY = 1
    COMMAND_RESPONSE = 2
    COMMAND_STATE = 3
    OTA_STATUS = 4
    PRESENCE = 5
    GATEWAY_EVENT = 6

    @property
    def wire(self) -> str:
        """The kind's name on the wire, such as ``command_response``."""
        return self.name.lower()


NO_DEVICE = "-"
"""In place of the device in messages about the appliance itself (``gateway_event``); no device can have this id."""


def kind_name(number: int) -> str:
    """A kind's name on the wire, also of a number that this version does not know."""
    return Kind(number).wire if number in Kind._value2member_map_ else f"unknown_{number}"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the buffer keeps it; ``payload`` is valid JSON, times are milliseconds since 1970.

    ``at_ms`` is the device's own time; ``flags`` say whether it may be used (:func:`appliance.contract.times.time_of`).
    """

    seq: int
    device: str
    kind: Kind
    at_ms: int | None
    received_at_ms: int
    flags: int
    payload: bytes


def encode_message(message: StoredMessage, lane: Literal["live", "backlog"]) -> bytes:
    """One message of a batch; the payload's JSON is spliced in as the device sent it."""
    at_ms, clock = message.at_ms, ""
    if message.flags:
        clock = clock_fields(at_ms, message.flags)
    at_ms = time_of(at_ms, message.received_at_ms, message.flags)
    head = (
        f'{{"seq":{message.seq},"device":"{message.device}","kind":"{message.kind.wire}","at":"{rfc3339(at_ms)}",'
        f'"received_at":"{rfc3339(message.received_at_ms)}","lane":"{lane}"{clock},"payload":'
    )
    return head.encode() + message.payload + b"}"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a batch, beside the gateway: ``start`` of the last ``sync``, and the database it is meant for.

    With them Odoo keeps out batches of a copy that was fenced, and a copy of Odoo what is not meant for it.
    """

    start: str
    database_uuid: str


def encode_batch(
    *,
    gateway: str,
    epoch: str,
    floor: int,
    settled: int,
    messages: Sequence[bytes],
    stored: int | None = None,
    below: int | None = None,
    sender: Sender | None = None,
) -> bytes:
    """The body of ``POST /iiot/webhook``; ``messages`` come from :func:`encode_message`.

    ``settled`` and ``stored`` are the highest ``seq`` and the number of messages that Odoo has confirmed: one that
    knows less was restored from a backup, and must answer 409 ``behind`` before it moves its floor. ``below`` is how
    many of these are below ``floor``: as many must Odoo have there, or it is behind, whatever else it has.
    """
    named = f'"start":"{sender.start}","database_uuid":"{sender.database_uuid}",' if sender else ""
    counted = f'"stored":{stored},' if stored is not None else ""
    counted += f'"below":{below},' if below is not None else ""
    head = (
        f'{{"contract":{CONTRACT_VERSION},"gateway":"{gateway}",{named}"epoch":"{epoch}",'
        f'"floor":{floor},"settled":{settled},{counted}"messages":['
    )
    return head.encode() + b",".join(messages) + b"]}"


class OdooBody(BaseModel):
    """What Odoo writes; fields that are not known are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def without_unset(value: object, *, meaning_false: Collection[str]) -> object:
    """Odoo writes an unset field as ``null`` or ``false``; both mean the default, but in fields that are booleans."""
    if not isinstance(value, dict):
        return value
    return {
        key: item for key, item in value.items() if item is not None and (item is not False or key in meaning_false)
    }


class MessageResult(OdooBody):
    """What Odoo did with one message."""

    seq: int
    status: Literal["stored", "duplicate", "rejected", "retry"]
    code: str | None = None
    message: str | None = None


class BatchResult(OdooBody):
    """Odoo's answer to a batch: a result per message, and whether it has work for the appliance."""

    results: list[MessageResult]
    work: bool = False


class AdvertisedAddress(OdooBody):
    """The broker address that Odoo wants devices to be told; what is ``None`` the appliance fills in."""

    host: str | None = None
    port: int | None = None
    tls: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=("tls",))


class GrantedLocalTopics(OdooBody):
    """Topic filters for messages between machines that stay at the gateway; ``{device}`` stands for the device id.

    They are checked where the device is stored, like ``topics``: a filter that cannot be used is that device's error.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=())


def _at_most_a_month(value: float) -> float:
    # a profile that means "for ever": milliseconds of it must fit into the store
    return min(value, LONGEST_EXPIRY_S)


CommandSeconds = Annotated[float, Field(gt=0), AfterValidator(_at_most_a_month)]


class DeviceConfig(OdooBody):
    """What Odoo says of a device it has paired. ``topics`` holds templates by name, times are seconds."""

    device_id: DeviceId
    config_version: int = 1
    topics: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    command_template: str = DEFAULT_COMMAND_TEMPLATE
    command_is_json: bool = True
    command_add_id: bool = True
    command_expires_in_s: CommandSeconds = DEFAULT_COMMAND_EXPIRY_S
    command_response_limit_s: CommandSeconds = DEFAULT_RESPONSE_LIMIT_S
    max_packet_bytes: Annotated[int, Field(ge=128)] | None = None
    secret_version: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    """With a claim: up to where Odoo's wishes for a new secret are fulfilled by this pairing."""
    local_topics: GrantedLocalTopics | None = None
    mqtt: AdvertisedAddress = AdvertisedAddress()

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=("command_is_json", "command_add_id"))

    def local(self) -> LocalTopics | None:
        """What its profile grants for messages between machines; ``ValueError`` if it cannot be used."""
        granted = self.local_topics
        if granted is None or not (granted.publish or granted.subscribe):
            return None
        return LocalTopics(granted.publish, granted.subscribe)


class OdooProblem(OdooBody):
    """An error document of Odoo's contract; without ``code`` it is not one."""

    code: Annotated[str, Field(min_length=1, max_length=64)]
    message: str | None = None
    detail: str | None = None
    retry_after_s: float | None = None
    floor: Annotated[int, Field(ge=0)] | None = None
    """With ``behind``: the floor that this database knows for the epoch."""

    @property
    def text(self) -> str:
        """Its explanation for people."""
        return self.message or self.detail or self.code
