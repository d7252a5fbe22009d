"""Every error of the appliance, in one tree.

ApplianceError
├── SettingsError                 settings that cannot be used
├── DataFolderError               a file of the data folder cannot be read, written or used
├── SealError                     what is encrypted cannot be decrypted
├── BackupError                   a backup cannot be made, read or put back
├── StoreError
│   ├── StoreLockedError          another process has the data folder
│   ├── StoreUnavailableError     nothing can be committed now (disk full, medium fails)
│   ├── StoreFormatError          the file is not ours, or from a newer version
│   ├── TopicsRefusedError        topics that this device cannot have
│   └── OtherDeviceError          a configuration that belongs to another device
├── RequestError                  the caller can mend it; carries what HTTP answers
│   ├── UnknownDeviceError
│   ├── DeviceDisabledError
│   ├── UnknownCommandError
│   ├── CommandRefusedError
│   ├── UnknownUpdateError
│   ├── UpdateRefusedError
│   ├── LinkRefusedError          a firmware link that opens nothing
│   ├── UnknownDeadLetterError
│   ├── NotRetryableError
│   ├── UnknownApiKeyError
│   ├── ApiKeyExistsError
│   ├── TooManyApiKeysError
│   ├── BuiltinApiKeyError
│   ├── PasswordRefusedError      one that is too short
│   └── BusyError                 too many ask for the same at once
├── FirmwareError                a file that cannot be had, or cannot be kept; the text says why
└── OdooError
    ├── OdooUnavailableError      try again later
    ├── OdooAlarmError            keep everything, stop sending, tell people (wrong key, wrong address)
    ├── OdooTooLargeError         send less at a time
    └── OdooRefusedError          Odoo's contract says no, with a code
        └── OdooFencedError       another copy of this appliance has taken its place
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from appliance.contract.problems import Problem, ProblemCode

if TYPE_CHECKING:  # its models take a tenth of a second to build, and every command of the command line loads this file
    from appliance.contract.sync import KnownEpoch


class ApplianceError(Exception):
    """Root of all errors that the appliance raises on purpose."""


class SettingsError(ApplianceError):
    """Settings that cannot be used; ``problems`` has one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class DataFolderError(ApplianceError):
    """A file of the data folder, other than the database, cannot be read, written or used."""


class SealError(ApplianceError):
    """Not encrypted by us, damaged, or with another passphrase; the text says which as far as that can be known."""


class BackupError(ApplianceError):
    """A backup cannot be made, or cannot be put back; the text says why, and what to do."""


class StoreError(ApplianceError):
    """Something is wrong with the database file."""


class StoreLockedError(StoreError):
    """Another process works on this data folder."""


class StoreUnavailableError(StoreError):
    """Nothing can be committed now; the reason is the text."""


class StoreFormatError(StoreError):
    """The file cannot be read as this version's database."""


class TopicsRefusedError(StoreError):
    """Topics that a device cannot have: invalid, or another's; the text says which."""


class OtherDeviceError(StoreError):
    """A configuration that is another device's; the text says whose."""


class RequestError(ApplianceError):
    """A request that cannot be carried out as it stands."""

    status = 400
    code: ProblemCode = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: ProblemCode | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status or self.status
        self.code = code or self.code
        self.retry_after_s = retry_after_s

    def problem(self) -> Problem:
        """As HTTP tells it."""
        return Problem(self.status, self.code, str(self), retry_after_s=self.retry_after_s)


class NoOdooError(RequestError):
    """There is no Odoo that this appliance could ask."""

    status = 409
    code: ProblemCode = "no_odoo"


class UnknownDeviceError(RequestError):
    """No device of this id is paired with this appliance."""

    status = 404
    code: ProblemCode = "unknown_device"


class DeviceDisabledError(RequestError):
    """The device is switched off in Odoo."""

    status = 409
    code: ProblemCode = "device_disabled"


class UnknownCommandError(RequestError):
    """No command of this id is known."""

    status = 404
    code: ProblemCode = "unknown_command"


class CommandRefusedError(RequestError):
    """A command that must not be sent: it cannot be rendered, is no JSON, too large, or contradicts an earlier one."""

    status = 422
    code: ProblemCode = "command_template"


class UnknownUpdateError(RequestError):
    """No update of this id is known."""

    status = 404
    code: ProblemCode = "unknown_update"


class UpdateRefusedError(RequestError):
    """An update that must not begin, or cannot be cancelled; the code says why."""

    status = 409
    code: ProblemCode = "update_open"


class LinkRefusedError(RequestError):
    """A firmware link that was not made here, has expired, or belongs to an update that was cancelled."""

    status = 403
    code: ProblemCode = "link_invalid"


class UnknownDeadLetterError(RequestError):
    """No parked message has this id."""

    status = 404
    code: ProblemCode = "unknown_dead_letter"


class NotRetryableError(RequestError):
    """What was parked is not a whole message, so it cannot be sent to Odoo."""

    status = 409
    code: ProblemCode = "not_retryable"


class UnknownApiKeyError(RequestError):
    """No key of the API has this id."""

    status = 404
    code: ProblemCode = "unknown_api_key"


class ApiKeyExistsError(RequestError):
    """Another key has this name."""

    status = 409
    code: ProblemCode = "api_key_exists"


class TooManyApiKeysError(RequestError):
    """The appliance keeps no more keys."""

    status = 409
    code: ProblemCode = "too_many_api_keys"


class BuiltinApiKeyError(RequestError):
    """The appliance's own key is a setting: it cannot be revoked like the others."""

    status = 409
    code: ProblemCode = "builtin_api_key"


class PasswordRefusedError(RequestError):
    """No password for the status pages: too short, or too long."""

    status = 422


class BusyError(RequestError):
    """Too many want what can be done for a few at a time."""

    status = 503
    code: ProblemCode = "busy"


class FirmwareError(ApplianceError):
    """A firmware file cannot be fetched, is not what was ordered, or cannot be kept; the text says why."""


class OdooError(ApplianceError):
    """Odoo did not do what it was asked."""


class OdooUnavailableError(OdooError):
    """Odoo cannot be reached or is overloaded; ``retry_after_s`` is its own wish, if it had one."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OdooAlarmError(OdooError):
    """Odoo refuses this appliance as a whole (401, 403, 404, a redirect): people must act."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class OdooTooLargeError(OdooError):
    """A body was too large for Odoo or for a proxy before it.

    ``certain``: the answer was 413, nothing of it was stored. Otherwise the connection was cut while sending a large
    body, which some servers do in place of 413: whether it was stored is unknown.
    """

    def __init__(self, message: str, *, certain: bool) -> None:
        super().__init__(message)
        self.certain = certain


class OdooRefusedError(OdooError):
    """Odoo refused a request with a problem document of the contract.

    ``floor``: of a database that knows less than it once confirmed (409 ``behind``), below which it has everything.
    """

    def __init__(self, message: str, *, status: int, code: str, floor: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.floor = floor


class OdooFencedError(OdooRefusedError):
    """Another copy of this appliance has taken its place (409 ``fenced`` to ``sync``).

    ``known`` is what Odoo knows of the epochs that were reported; ``None``: that cannot be read.
    """

    def __init__(self, message: str, *, known: Sequence[KnownEpoch] | None) -> None:
        super().__init__(message, status=409, code="fenced")
        self.known = known
