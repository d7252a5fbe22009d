"""Builds what firmware updates need and joins it: files, the way they come here, links, and the service itself."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from appliance.contract.times import Clock
from appliance.services.credentials import Credentials
from appliance.services.firmware import FirmwareService
from appliance.services.firmware_links import FirmwareLinks
from appliance.services.ota import OtaService
from appliance.settings import Settings
from appliance.store.database import Database
from appliance.store.devices import DeviceRegistry
from appliance.store.firmware import FirmwareFiles
from appliance.store.update_rules import Deadlines
from appliance.store.updates import Updates
from appliance.uplink.firmware import FirmwareFetcher, OdooAccess

MIB = 1 << 20
_MINUTE_MS = 60_000
FOLDER = "firmware"
"""In the data folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updating:
    """The parts of it."""

    files: FirmwareFiles
    firmware: FirmwareService
    service: OtaService

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, object]]:
        """What must run, by name."""
        return {"updates": self.service.run(), "firmware": self.firmware.run()}


async def build_updating(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    database: Database,
    registry: DeviceRegistry,
    credentials: Credentials,
    odoo: OdooAccess | None,
    clock: Clock,
    host: str,
    http_port: int,
) -> Updating:
    """``host`` is what devices are told to connect to. What must be closed goes onto the stack."""
    files = FirmwareFiles(
        settings.iiot_data_dir / FOLDER,
        quota_bytes=settings.iiot_firmware_quota_mb * MIB,
        most_bytes=settings.iiot_firmware_max_mb * MIB,
    )
    stack.push_async_callback(files.close)
    await files.load()
    hosts = [host for host in settings.iiot_firmware_hosts.split(",") if host]
    fetcher = FirmwareFetcher(odoo=odoo, hosts=hosts, clock=clock)
    stack.push_async_callback(fetcher.aclose)
    firmware = FirmwareService(files=files, fetcher=fetcher, clock=clock)
    scheme = "https" if settings.http_use_tls else "http"
    own_url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{http_port}"
    service = OtaService(
        updates=Updates(database),
        devices=registry,
        firmware=firmware,
        links=FirmwareLinks(key=credentials.key("firmware"), base_url=settings.iiot_firmware_base_url or own_url),
        clock=clock,
        deadlines=Deadlines(
            fetch_ms=int(settings.iiot_update_fetch_hours * 60 * _MINUTE_MS),
            offer_ms=int(settings.iiot_update_offer_hours * 60 * _MINUTE_MS),
            download_ms=int(settings.iiot_update_download_hours * 60 * _MINUTE_MS),
            install_ms=int(settings.iiot_update_install_minutes * _MINUTE_MS),
        ),
    )
    registry.changed.append(lambda device: service.device_has(device.device_id, device.serial))
    registry.removed.append(lambda device: service.device_has(device.device_id, None))
    return Updating(files=files, firmware=firmware, service=service)
