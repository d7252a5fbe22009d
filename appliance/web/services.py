"""What the routes need of the rest of the appliance; ``app.py`` hands it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from appliance.contract.command import CommandStatus, SendCommand
from appliance.contract.ota import SendUpdate, UpdateStatus
from appliance.contract.times import Clock
from appliance.services.api_keys import ApiKeys
from appliance.services.config_push import ConfigPush
from appliance.services.credentials import Credentials
from appliance.services.device_changes import DeviceService
from appliance.services.firmware_links import Link
from appliance.services.pairing import PairingService
from appliance.services.presence import Presence
from appliance.store.buffer import Backlog
from appliance.store.dead_letters import DeadLetters
from appliance.store.devices import DeviceRegistry
from appliance.store.kinds import BufferKinds
from appliance.store.ledger import LedgerPage
from appliance.store.peek import Peek
from appliance.web.charts import Point
from appliance.web.metrics import Figures

T = TypeVar("T")


class Commands(Protocol):
    """The command service, as the routes see it. All raise :class:`appliance.errors.RequestError`."""

    async def send(self, order: SendCommand) -> CommandStatus:
        """Accept a command; the same ``command_id`` again is the first one."""

    async def status(self, command_id: str) -> CommandStatus:
        """State and history."""

    async def cancel(self, command_id: str) -> CommandStatus:
        """Take back what has not been sent."""

    def open_count(self, device_id: str) -> int:
        """Commands of the device that have not ended."""


class Updates(Protocol):
    """The update service, as the routes see it. All raise :class:`appliance.errors.RequestError`."""

    async def send(self, order: SendUpdate) -> UpdateStatus:
        """Accept an order; the same ``update_id`` again is the first one."""

    async def status(self, update_id: str) -> UpdateStatus:
        """State and history."""

    async def cancel(self, update_id: str) -> UpdateStatus:
        """End it, or tell the device to."""

    def open_update(self, device_id: str) -> Mapping[str, Any] | None:
        """The device's open update in short."""

    async def check_link(self, sha256: str, token: str) -> Link:
        """What a link to a firmware file says, if it opens that now."""


class FirmwareFiles(Protocol):
    """The firmware files on this box."""

    def size(self, sha256: str) -> int | None:
        """Size of a file that is here."""

    async def open(self, sha256: str) -> int | None:
        """A descriptor to read from."""

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do something on the disk."""


class FirmwareDownloads(Protocol):
    """Counts and bounds the downloads of devices."""

    def download(self, position: int) -> AbstractContextManager[Callable[[int], None]]:
        """A place among them, for an update; told of the bytes that were sent."""


class ReadLedger(Protocol):
    """Reads a page of the ledger."""

    async def __call__(self, *, search: str, after: str, limit: int) -> LedgerPage:
        """Lines of devices behind ``after`` whose id holds ``search``."""


class Password(Protocol):
    """The password of the status pages."""

    @property
    def generation(self) -> int:
        """Counts up with each change."""

    async def verify(self, presented: str) -> bool:
        """Whether this is it; :class:`appliance.errors.BusyError`."""

    async def change(self, new: str | None = None) -> str | None:
        """Take a new one, or make one and return it; :class:`appliance.errors.PasswordRefusedError`."""


class Trends(Protocol):
    """How it was of late."""

    @property
    def hour(self) -> list[Point]:
        """A point a minute."""

    @property
    def day(self) -> list[Point]:
        """A point every ten minutes."""

    def rates(self) -> tuple[float, float] | None:
        """Readings received, and messages settled, a second."""


class Enrolled(Protocol):
    """What came of an enrolment."""

    @property
    def base_url(self) -> str:
        """Of Odoo."""

    @property
    def overruled(self) -> bool:
        """Whether the settings name another Odoo, and go first."""


class Enrol(Protocol):
    """Makes the appliance known to an Odoo."""

    async def __call__(self, odoo_url: str, code: str, database: str | None) -> Enrolled:
        """Turn a code into a key; any :class:`appliance.errors.ApplianceError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the appliance is. Only ``status`` is for everybody."""

    status: Literal["ok", "degraded", "failing"]
    reasons: tuple[str, ...] = ()
    """For people, a sentence each; empty if all is well."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """By part: broker, buffer, uplink, disk; JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageServices:
    """What only the status pages need."""

    password: Password
    peek: Peek
    trends: Trends
    facts: Callable[[], Mapping[str, Any]]
    """About the box, by what they are called."""
    log_lines: Callable[[], list[str]]
    """The last lines of the log, without secrets."""
    enrol: Enrol
    restart: Callable[[], None]
    """End this run of the appliance, and begin another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """The services and callables behind the routes."""

    name: str
    """The gateway's name."""
    version: str
    clock: Clock
    api_keys: ApiKeys
    registry: DeviceRegistry
    credentials: Credentials
    pairing: PairingService
    push: ConfigPush
    changes: DeviceService
    commands: Commands
    updates: Updates
    firmware_files: FirmwareFiles
    firmware_downloads: FirmwareDownloads
    presence: Callable[[str], Presence]
    counters: Callable[[str], Awaitable[Mapping[str, Any]]]
    """A device's ledger, with what was refused and why."""
    backlog: Callable[[], Backlog]
    kinds: Callable[[], Awaitable[BufferKinds]]
    """What the backlog consists of; this may take a while."""
    ledger: ReadLedger
    dead_letters: DeadLetters
    metrics: Callable[[], Awaitable[Figures]]
    health: Callable[[], Health]
    ca_pem: str
    pages: PageServices
    stopping: Callable[[], bool] = lambda: False
    """Whether the appliance is about to stop: what takes long must come to an end."""
    sync_soon: Callable[[], bool] = lambda: False
    """Ask Odoo for work now; false where there is no Odoo to ask."""
