"""Paired devices without an Odoo: put into the appliance's own registry before it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics, TopicTemplates
from appliance.secret_files import master_key
from appliance.services.credentials import Credentials
from appliance.store.database import Database
from appliance.store.device_rows import Claim
from appliance.store.devices import DeviceRegistry


@dataclass(frozen=True, slots=True)
class PairedDevice:
    """What a device knows of itself after pairing."""

    device_id: str
    password: str = field(repr=False)
    topics: DeviceTopics


def device_names(count: int) -> list[str]:
    """``press-001``, ``press-002``, …, as the stand-in for Odoo names them too."""
    return [f"press-{number:03d}" for number in range(1, count + 1)]


async def pair_devices(folder: Path, device_ids: Sequence[str]) -> list[PairedDevice]:
    """Pair devices in a data folder that no process is using, default profile, secrets as the appliance derives them.

    The grant that Odoo would give is made up here; everything after it (row, generation, secret) is the product's code.
    """
    credentials = Credentials(master_key(folder))
    database = await Database.open(folder)
    try:
        registry = DeviceRegistry(database=database, templates=TopicTemplates())
        await registry.load()
        claims = [_claim(device_id, credentials) for device_id in device_ids]
        pairings = await asyncio.gather(*(registry.pair(claim) for claim in claims))
        return [_paired(registry, credentials, pairing.device_id, pairing.generation) for pairing in pairings]
    finally:
        await database.close()


def _claim(device_id: str, credentials: Credentials) -> Claim:
    serial = f"SN-{device_id}"
    return Claim(
        serial=serial,
        token_digest=credentials.token_digest(serial, "test"),
        request_id=f"pairing of {device_id}",
        config=DeviceConfig(device_id=device_id),
    )


def _paired(registry: DeviceRegistry, credentials: Credentials, device_id: str, generation: int) -> PairedDevice:
    device = registry.get(device_id)
    assert device is not None
    return PairedDevice(device_id, credentials.password(device_id, generation), device.topics)
