"""The body of ``POST /iiot/config``: a device asks, through its appliance, for its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import checks
from .topics import is_serial


@dataclass(frozen=True)
class ClaimRequest:
    """A token for a serial number; a repeat has the same ``request_id``."""

    serial: str
    token: str = field(repr=False)
    request_id: str | None
    firmware_version: str | None
    hardware: str | None

    def told(self) -> dict[str, Any]:
        """What the device said of itself, as values of ``iiot.device.state``."""
        told = {"firmware_version": self.firmware_version, "hardware": self.hardware}
        return {name: value for name, value in told.items() if value is not None}


def read_claim(body: object) -> ClaimRequest:
    """The request; ``RefusalError`` where it makes no sense."""
    body = checks.of_this_contract(body)
    serial = checks.text(body, "serial")
    if not is_serial(serial):
        raise checks.bad_request("serial is no serial number of the contract")
    return ClaimRequest(
        serial=serial,
        token=checks.text(body, "token", most=256),
        request_id=checks.optional_text(body, "request_id"),
        firmware_version=checks.optional_text(body, "firmware_version"),
        hardware=checks.optional_text(body, "hardware"),
    )
