"""What is to be said about the box itself: versions, addresses, certificate, disk, age of the process."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.contract.times import Clock, rfc3339
from appliance.enrolment import OdooAccess
from appliance.identity import Identity
from appliance.settings import Settings
from appliance.store.connection import SQLITE_VERSION

_DAY_MS = 86_400_000
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the appliance listens in this run."""

    mqtt: int
    mqtt_plain: int | None
    http: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Call it: a mapping of what does not change and what does."""

    settings: Settings
    identity: Identity
    access: OdooAccess | None
    ports: Ports
    disk: Callable[[], Mapping[str, int]]
    clock: Clock
    started_at: float
    versions: Mapping[str, str]

    def __call__(self) -> Mapping[str, Any]:
        """As of now."""
        now_ms = self.clock.now_ms()
        certificates = self.identity.certificates
        access = self.access
        return {
            "name": self.settings.mqtt_client_id,
            "gateway_uid": self.identity.gateway_uid,
            "versions": self.versions,
            "uptime_s": self.clock.monotonic() - self.started_at,
            "time": rfc3339(now_ms),
            "names": certificates.names,
            "mqtt_port": self.ports.mqtt,
            "mqtt_tls": self.settings.mqtt_use_tls,
            "http_port": self.ports.http,
            "http_tls": self.settings.http_use_tls,
            "fingerprint": certificates.fingerprint,
            "certificate_ends_at": rfc3339(certificates.ends_at_ms),
            "certificate_days": (certificates.ends_at_ms - now_ms) // _DAY_MS,
            "disk": self.disk(),
            "data_folder": str(self.settings.iiot_data_dir),
            "memory_bytes": _memory_bytes(),
            "odoo": None if access is None else access.base_url,
            "odoo_database": None if access is None else access.database,
        }


def versions() -> dict[str, str]:
    """Of the appliance and of what it stands on. Touches the disk."""
    found = {"appliance": __version__, "Python": platform.python_version(), "SQLite": SQLITE_VERSION}
    try:
        found["amqtt"] = version("amqtt")
    except PackageNotFoundError:
        found["amqtt"] = "?"
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = platform.system()
    return found | {"system": system, "machine": platform.machine()}


def _memory_bytes() -> int:
    # not a file of a disk: the kernel answers at once
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
