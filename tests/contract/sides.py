"""What the tests of the contract ask of any Odoo side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import httpx


@dataclass(frozen=True)
class NewDevice:
    device_id: str
    serial: str
    token: str


class OdooSide(Protocol):
    """One running Odoo: ``http`` speaks to its contract routes with the right key."""

    http: httpx.Client

    def new_device(self, **config: Any) -> NewDevice:
        """A device with a fresh token."""

    def disable(self, device_id: str) -> None:
        """Switch a device off."""

    def effects(self, device_id: str) -> list[dict[str, Any]]:
        """What took effect for a device, oldest first: ``kind`` and ``payload`` among its members."""

    def new_code(self, gateway_uid: str | None = None) -> str:
        """A code from the form of a gateway: of a new one, or of the one that was enrolled under this uid."""
