"""A firmware update as the API, the device and Odoo see it: the order, the offer, its states, what is told of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import to_json

from appliance.contract.command import COMMAND_ID_PATTERN
from appliance.contract.device import DeviceId
from appliance.contract.odoo import without_unset

OFFER_BYTES = 512
"""Of an offer with its topic: small clients have buffers of this size."""
SHA256_PATTERN = r"[0-9a-f]{64}"
URL_CHARACTERS = 2048
OWN_PARAMS = ("url", "size", "sha256")
"""What the offer holds of its own; all other parameters go to the device as they were ordered."""

OtaAction = Literal["start_update", "cancel_update", "rollback"]
UpdateState = Literal[
    "fetching",
    "queued",
    "offered",
    "delivered",
    "cancelling",
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
FINAL: frozenset[str] = frozenset({"installed", "failed", "rolled_back", "already_installed", "cancelled"})
UNDELIVERED: frozenset[str] = frozenset({"fetching", "queued", "offered"})
"""The device has not acknowledged that it heard of the update."""
ORDER: tuple[str, ...] = (
    *("fetching", "queued", "offered", "delivered", "accepted", "downloading", "downloaded", "verified"),
    *("installing", "rebooting", "cancelling"),
)
"""In which the states that are not final follow one another; the way back is closed."""
FailureReason = Literal[
    "fetch", "timeout", "no_ack", "device", "offer_too_large", "refused", "unknown_update", "unpaired"
]
"""``device``: it said so itself. ``timeout``: a state lasted too long. ``no_ack``: delivered too often without PUBACK.
``fetch``: the file could not be had. ``unpaired``: the device id lost its device. ``refused``, ``unknown_update``: an
order that came with a sync."""

UpdateId = Annotated[str, StringConstraints(pattern=f"^{COMMAND_ID_PATTERN}$")]


def _null_is_empty(value: object) -> object:
    return {} if value is None else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


class OrderedFirmware(BaseModel):
    """The parameters of ``start_update``. What is not named here is handed on to the device as it is."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    url: Annotated[str, StringConstraints(min_length=1, max_length=URL_CHARACTERS)] = Field(repr=False)
    sha256: Annotated[str, BeforeValidator(_lower), StringConstraints(pattern=f"^{SHA256_PATTERN}$")] | None = None
    size: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return without_unset(value, meaning_false=())


class SendUpdate(BaseModel):
    """The body of ``POST /api/v1/ota/send``.

    ``start_update`` and ``rollback`` are orders with an id of their own. ``cancel_update`` names the update it means by
    ``update_id``; without one it means the device's open update.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    device_id: DeviceId
    action: OtaAction
    params: Annotated[dict[str, Any], BeforeValidator(_null_is_empty)] = Field(default_factory=dict)
    update_id: UpdateId | None = None


class UpdateEvent(BaseModel):
    """One change of an update. ``late`` marks a device's news that overrule how the appliance had ended it."""

    model_config = ConfigDict(frozen=True)

    state: UpdateState
    at: str
    reason: str | None = None
    late: bool | None = None


class DownloadStatus(BaseModel):
    """What the device has fetched from the appliance since its start."""

    model_config = ConfigDict(frozen=True)

    active: int = 0
    requests: int = 0
    bytes_sent: int = 0
    last_at: str | None = None


class UpdateStatus(BaseModel):
    """What is known of an update. ``settled``: nothing more is awaited. ``deadline_at``: when it fails by itself."""

    model_config = ConfigDict(frozen=True)

    update_id: str
    device_id: str
    action: Literal["start_update", "rollback", "cancel_update"]
    state: UpdateState
    reason: str | None = None
    error: str | None = None
    version: str | None = None
    progress: float | None = None
    sha256: str | None = None
    size: int | None = None
    deliveries: int = 0
    settled: bool
    created_at: str
    deadline_at: str | None = None
    download: DownloadStatus | None = None
    history: list[UpdateEvent]


def usable_url(url: str) -> str | None:
    """Why a file cannot be fetched from this address, or ``None``. One that begins with ``/`` is one of Odoo's."""
    if url.startswith("/") and not url.startswith("//") and url.isascii() and url.isprintable() and " " not in url:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        return "url must look like https://files.example.com/firmware.bin"
    if parts.username is not None or parts.password is not None:
        return "url must not hold a user name or password"
    return None


def offer(update_id: str, params: dict[str, Any], *, url: str, size: int, sha256: str) -> bytes:
    """The offer of a file. What is not set is left out: it must be short."""
    others = {key: value for key, value in params.items() if key not in OWN_PARAMS and value is not None}
    return message("start_update", update_id, {**others, "url": url, "size": size, "sha256": sha256})


def message(action: OtaAction, update_id: str, params: dict[str, Any]) -> bytes:
    """A message to the device on its ``ota_notify`` topic."""
    return to_json({"action": action, "update_id": update_id, "params": params})


def update_message(
    update_id: str,
    state: UpdateState,
    at: str,
    *,
    version: str | None = None,
    reason: str | None = None,
    error: str | None = None,
) -> bytes:
    """The ``OTA_STATUS`` payload of a change that the appliance made; those of a device have no ``source``."""
    body = {"update_id": update_id, "state": state, "version": version, "reason": reason, "error": error, "at": at}
    return to_json({key: value for key, value in body.items() if value is not None} | {"source": "appliance"})


def rank(state: str) -> int:
    """Where a state stands in :data:`ORDER`; final ones come last."""
    return ORDER.index(state) if state in ORDER else len(ORDER)
