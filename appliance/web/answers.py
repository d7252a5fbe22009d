"""What the routes answer, as models: for the API's description, which a test holds against real answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from appliance.contract.command import CommandState
from appliance.contract.ota import DownloadStatus, UpdateState
from appliance.services.api_keys import Scope

Status = Literal["ok", "degraded", "failing"]


class _Answer(BaseModel):
    # a field that is not described is a mistake of the description
    model_config = ConfigDict(extra="forbid")


class EndpointLine(_Answer):
    """A route of this API."""

    method: str
    path: str
    key: bool
    """Whether a key is needed."""
    scope: Scope | None
    """What it must be good for."""


class RootAnswer(_Answer):
    """Who this is, and what it serves."""

    status: Status
    name: str
    version: str
    endpoints: list[EndpointLine]


class HealthAnswer(BaseModel):
    """``status`` for everybody; the rest, part by part, for those with a key. Parts, and figures in them, may join."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    status: Status
    name: str | None = None
    version: str | None = None
    reasons: list[str] | None = None
    time: str | None = None
    broker: dict[str, Any] | None = None
    buffer: dict[str, Any] | None = None
    uplink: dict[str, Any] | None = None
    disk: dict[str, Any] | None = None


class BufferAnswer(_Answer):
    """What waits for Odoo."""

    waiting: int
    waiting_by_kind: dict[str, int] | None
    """``None`` where more than 10,000 wait, or the store cannot be asked; the next likewise."""
    parked: int
    parked_by_code: dict[str, int] | None
    oldest_received_at: str | None
    oldest_age_s: float | None
    last_seq: int


class Connection(_Answer):
    """Whether a device is connected, since when, and why not."""

    status: Literal["online", "offline", "unknown"]
    since: str | None
    for_s: float | None
    """How long it has been so."""
    reason_code: str | None
    reason: str | None
    """Why it is not connected, for people."""
    address: str | None
    last_seen: str | None
    connects: int
    takeovers: int
    """Logins that ended an older connection of the same device."""
    warning: str | None
    """That several clients fight over its device id."""


class OpenUpdate(_Answer):
    """A firmware update that has not ended; ``download``: what the device has fetched since the appliance's start."""

    update_id: str
    action: str
    state: UpdateState
    version: str | None
    progress: float | None
    download: DownloadStatus | None


class DeviceSummary(_Answer):
    """A device in short."""

    device_id: str
    serial: str
    enabled: bool
    connection: Connection
    firmware_version: str | None
    last_telemetry: str | None
    open_commands: int
    open_update: OpenUpdate | None


class ConfigurationStatus(_Answer):
    """Which configuration a device should have, was told, and is known to have."""

    version: int
    told_version: int | None
    taken_version: int | None
    current: bool
    """Whether it has all of its present configuration."""
    earlier_topics: int
    """Sets of topics that it had before and may still use."""
    refused: str | None
    """Why a newer configuration from Odoo is not taken over."""
    problem: str | None
    """Why it cannot be told over MQTT."""


class SecretStatus(_Answer):
    """Which secrets of a device open the door, by their numbers."""

    generation: int
    used_generation: int | None
    """The newest that it has logged in with."""
    valid_from: int
    pending: bool
    """Whether nobody has logged in with the newest one yet."""


class RotatedAnswer(_Answer):
    """The device is to get a new secret."""

    device_id: str
    secret: SecretStatus


class DeviceRemoved(_Answer):
    """The pairing has ended."""

    device_id: str
    removed: Literal[True]


class DeviceAnswer(DeviceSummary):
    """A device in full. ``counters``: its line of the ledger, and ``refusals`` with what was dropped and why."""

    hardware: str | None
    config_version: int
    configuration: ConfigurationStatus
    secret: SecretStatus
    paired_at: str | None
    first_login_at: str | None
    counters: dict[str, Any]
    time: str


class DevicesAnswer(_Answer):
    """A page of devices; ``next`` is the ``after`` of the next one."""

    devices: list[DeviceSummary]
    next: str | None
    paired: int


class UpdateAccepted(_Answer):
    """The state that an order begins with."""

    update_id: str
    state: UpdateState


class CommandAccepted(_Answer):
    """The command is on disk."""

    command_id: str
    state: CommandState


class SyncSoon(_Answer):
    """Odoo is asked as soon as may be."""

    sync: Literal["soon"] = "soon"


class Counts(_Answer):
    """Readings: received = stored + waiting + parked + removed."""

    received: int
    stored: int
    waiting: int
    parked: int
    removed: int
    refused: int
    repeated: int
    adds_up: bool


class RemovalLine(_Answer):
    """Parked messages that were removed for good."""

    kind: str
    reason: str
    count: int
    last_at: str


class LedgerLineAnswer(Counts):
    """One device."""

    device: str
    removals: list[RemovalLine]


class LedgerAnswer(_Answer):
    """``lines``: how many devices there are in all."""

    adds_up: bool
    checked_against_rows: bool
    total: Counts
    lines: int
    devices: list[LedgerLineAnswer]
    next: str | None


class Letter(_Answer):
    """What was refused and why. ``payload`` only where it was asked for and is short enough."""

    id: int
    seq: int | None
    device: str
    kind: str
    at: str
    received_at: str
    parked_at: str
    code: str
    message: str
    messages: int
    retryable: bool
    payload_bytes: int
    payload: Any = None


class LettersAnswer(_Answer):
    """A page of dead letters, and how full the list is."""

    rows: int
    most_rows: int
    payload_bytes: int
    most_payload_bytes: int
    next: int | None
    dead_letters: list[Letter]


class Retried(_Answer):
    """``seq``: its number as a new message."""

    id: int
    seq: int


class RetriedMany(_Answer):
    """``next`` and ``up_to`` are for the next request, until ``next`` is null."""

    retried: int
    skipped: int
    next: int | None
    up_to: int


class Removed(_Answer):
    """One is gone."""

    id: int
    removed: Literal[1]


class RemovedMany(_Answer):
    """As :class:`RetriedMany`."""

    removed: int
    next: int | None
    up_to: int


class Key(_Answer):
    """A key of this API, without itself."""

    id: str
    name: str
    scope: Scope
    builtin: bool
    prefix: str | None
    created_at: str | None
    last_used_at: str | None


class NewKey(Key):
    """With the key itself, this once."""

    key: str


class KeysAnswer(_Answer):
    """The appliance's own first; ``most``: how many there may be beside it."""

    api_keys: list[Key]
    most: int


class NewPassword(_Answer):
    """The password that was made, this once; null where it was given."""

    password: str | None


class RevokedKey(_Answer):
    """It opens nothing any more."""

    id: str
    name: str
    revoked: Literal[True]
