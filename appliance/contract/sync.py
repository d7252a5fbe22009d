"""What appliance and Odoo tell each other beside the messages: report, work, enrolment (``/iiot/gateway/…``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from appliance.contract.command import CommandId
from appliance.contract.device import DeviceId, Serial
from appliance.contract.odoo import DeviceConfig, OdooBody, without_unset

SYNC_PATH = "/iiot/gateway/sync"
ENROLL_PATH = "/iiot/gateway/enroll"
MOST_WORK = 500
"""Items of a kind in one answer to ``sync``; what is more comes with the next (``more``)."""
MOST_ANSWER_BYTES = 2 << 20
"""The longest answer to ``sync``."""
MOST_EPOCHS = 16
MOST_STARTS = 64
"""Starts of an epoch that Odoo tells of: the newest ones."""
WRONG_DATABASE = "wrong_database"
"""Code of the 409 to ``sync`` and webhook: the appliance is bound to another database."""
FENCED = "fenced"
"""Code of the 409 to ``sync`` and webhook: another copy of this appliance has taken its place."""

MOST_COUNT = 2**62
Count = Annotated[int, Field(ge=0, le=MOST_COUNT)]
DatabaseUuid = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
"""As Odoo writes it; it goes back in every batch."""
Uuid = Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{36}$")]
StartName = Annotated[str, Field(max_length=64)]


class Report(BaseModel):
    """What the appliance writes."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EpochReport(Report):
    """Where the appliance stands with the messages of one epoch."""

    epoch: Uuid
    first_seq: int = 1
    """The first message of this epoch in the appliance's file."""
    last_seq: int
    """The newest message; of the present epoch that is the highest ``seq`` ever given."""
    floor: int
    """The lowest ``seq`` that may still be sent."""
    settled: int
    """The highest ``seq`` that Odoo has confirmed (0: none)."""
    stored: int
    """How many messages Odoo has confirmed."""
    below: int = 0
    """How many of these are below ``floor``."""


class StartReport(Report):
    """A start of the process: the first message it could store, and the start before it in the same data folder."""

    start: Uuid
    first_seq: Annotated[int, Field(ge=1)]
    previous: Uuid | None = None


class BacklogReport(Report):
    """What waits and what was parked. ``drain_s``: estimated seconds until nothing waits, ``None`` if unknown."""

    waiting: int
    parked: int
    oldest_at: str | None = None
    drain_s: float | None = None


class LedgerReport(Report):
    """Readings of all devices together since the file was made; received = stored + waiting + parked + removed."""

    received: int
    stored: int
    waiting: int
    parked: int
    removed: int
    refused: int
    repeated: int


class DiskReport(Report):
    """The disk that holds the buffer."""

    free_bytes: Count
    total_bytes: Count


class SyncRequest(Report):
    """Body of ``POST /iiot/gateway/sync``: heartbeat, report, and how far the appliance knows Odoo's changes."""

    contract: Literal[1] = 1
    gateway: str
    name: str
    version: str
    time: str
    """The appliance's wall clock, RFC 3339."""
    uptime_s: float
    start: Uuid
    """Of this start of the process. Odoo keeps those it saw for each epoch: they tell a copy from its original."""
    starts: Annotated[list[StartReport], Field(min_length=1, max_length=MOST_STARTS)]
    """The present one last, and before it those since the last one of which a ``sync`` was answered."""
    database_uuid: str | None = None
    """The database this appliance is bound to; ``None`` before its first answer."""
    epochs: Annotated[list[EpochReport], Field(min_length=1, max_length=MOST_EPOCHS)]
    """The present one first, then earlier ones of which messages are kept."""
    cursor: str | None = None
    """Up to where Odoo's changes of devices are known here, as Odoo wrote it."""
    status: Literal["ok", "degraded", "failing"] = "ok"
    problems: list[str] = Field(default_factory=list, max_length=50)
    backlog: BacklogReport | None = None
    ledger: LedgerReport | None = None
    disk: DiskReport | None = None
    """As of the last look; left out before the first."""
    devices_paired: int = 0
    devices_online: int = 0
    api_url: str | None = None
    """Where Odoo may reach the appliance's API, as far as the appliance knows."""
    ca_fingerprint: str | None = None


class KnownStart(OdooBody):
    """A start of an appliance that Odoo was told of, with the highest ``seq`` that it has stored of its batches.

    Copies of a data folder go on with different starts after the same ``previous`` one.
    """

    start: StartName
    first_seq: Annotated[int, Field(ge=1, le=MOST_COUNT)] = 1
    previous: StartName | None = None
    highest_seq: Count = 0

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=())


class KnownEpoch(OdooBody):
    """What Odoo knows of one epoch; left out of the answer where it has never heard of it."""

    epoch: Annotated[str, Field(max_length=64)]
    highest_seq: Count = 0
    """The highest ``seq`` with a receipt, ever."""
    floor: Count = 0
    """Below this, Odoo answers ``duplicate``."""
    stored: Count | None = None
    """How many messages it has stored; fewer than it once confirmed means that it was restored from a backup."""
    below: Count | None = None
    """How many of these are below ``floor``."""
    behind: bool = False
    """Whether a batch that told what this sync reported would be answered with 409 ``behind``."""
    last_start: StartName | None = None
    """``start`` of the last sync before this one; one that the appliance never had means that a copy of it ran."""
    starts: list[KnownStart] = Field(default_factory=list)
    """The newest starts told before this sync, in the order in which they were told first."""

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=())


class PendingCommand(OdooBody):
    """A command that Odoo could not push. Fields as in ``POST /api/v1/command/send``; seconds count from now."""

    command_id: CommandId
    device_id: DeviceId
    action: str
    params: dict[str, Any] = Field(default_factory=dict)
    payload: Any = None
    expires_in_s: Annotated[float, Field(gt=0)] | None = None
    deliver: Literal["at_least_once", "at_most_once"] = "at_least_once"

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=())


class PendingUpdate(OdooBody):
    """A firmware update that Odoo could not push. Fields as in ``POST /api/v1/ota/send``."""

    update_id: Annotated[str, Field(min_length=1, max_length=64)]
    device_id: DeviceId
    action: Literal["start_update", "cancel_update", "rollback"]
    params: dict[str, Any] = Field(default_factory=dict)


class DeviceChange(OdooBody):
    """A device that was paired with this gateway and has changed in Odoo since ``cursor``."""

    device_id: DeviceId
    serial: Serial | None = None
    enabled: bool = True
    secret_version: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    """Counts up with each wish for a new secret; higher than the last one applied means: rotate now."""
    config: DeviceConfig | None = None
    """The whole configuration; left out where it has not changed."""


class BatchLimits(OdooBody):
    """The largest batch that Odoo takes."""

    messages: Annotated[int, Field(ge=1)] | None = None
    body_bytes: Annotated[int, Field(ge=1024)] | None = None


class FencedProblem(OdooBody):
    """What the 409 ``fenced`` to a ``sync`` says beside its code: what is known of the epochs that were reported."""

    known: list[KnownEpoch] = Field(default_factory=list)


class SyncAnswer(OdooBody):
    """What the appliance has to do. Everything in it may come again until a report shows that it was done."""

    database_uuid: DatabaseUuid
    admission: DatabaseUuid | None = None
    """To be named as ``start`` in batches; another one whenever another start has synced. Who has not seen this answer
    may not send: its own start may be the active one again although it knows nothing of a twin."""
    time: str | None = None
    known: list[KnownEpoch] = Field(default_factory=list)
    commands: list[PendingCommand] = Field(default_factory=list)
    """In the order in which they are to be delivered. Taken when a ``command_state`` message says so."""
    cancel_commands: list[CommandId] = Field(default_factory=list)
    updates: list[PendingUpdate] = Field(default_factory=list)
    devices: list[DeviceChange] = Field(default_factory=list)
    revoked: list[DeviceId] = Field(default_factory=list)
    """Devices that lost their pairing: their secrets end at once."""
    cursor: Annotated[str, Field(max_length=200)] | None = None
    """To be sent with the next sync once ``devices`` and ``revoked`` are on disk."""
    more: bool = False
    """Whether there is more than fitted into this answer: sync again at once."""
    limits: BatchLimits = BatchLimits()
    interval_s: Annotated[float, Field(ge=1, le=300)] | None = None
    """How often to ask while idle."""


class EnrollRequest(Report):
    """Body of ``POST /iiot/gateway/enroll``; ``code`` comes from the gateway's form in Odoo and works once."""

    contract: Literal[1] = 1
    code: str = Field(repr=False)
    gateway_uid: Uuid
    name: str
    version: str
    api_url: str | None = None
    api_key: str | None = Field(default=None, repr=False)
    """A key of the appliance's API, made for Odoo."""
    ca_pem: str | None = None
    recover: bool = False
    """This box is to become the gateway that the code was made for, with the identity that Odoo keeps of it."""


class EnrollAnswer(OdooBody):
    """Told once: the key of ``ODOO_API_KEY``, and the database that the appliance is bound to."""

    api_key: Annotated[str, Field(min_length=16, max_length=512)] = Field(repr=False)
    database_uuid: DatabaseUuid
    gateway_uid: Uuid | None = None
    """Under which uid the code's gateway was enrolled before; left out where it is new. With ``recover`` the key is for
    this gateway, which stays what it was; without, the gateway has the ``gateway_uid`` of the request from now on."""
    identity: str | None = Field(default=None, repr=False)
    """What ``PUT /iiot/gateway/identity`` brought last; with ``recover`` alone."""

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=())
