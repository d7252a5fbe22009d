"""Pairing, and what follows it for a device: built and joined to the registry, the broker and the commands."""

from __future__ import annotations

import asyncio

from appliance.broker.listener import Listener
from appliance.contract.times import Clock
from appliance.identity import Identity
from appliance.services.claims import ConfigSource
from appliance.services.commands import CommandService
from appliance.services.config_push import ConfigPush
from appliance.services.configuration import BrokerAddress
from appliance.services.device_changes import DeviceService
from appliance.services.pairing import PairingService
from appliance.store.database import Database
from appliance.store.devices import DeviceRegistry


class DeviceParts:
    """``listener`` listens already: its port is part of what devices are told."""

    def __init__(
        self,
        *,
        registry: DeviceRegistry,
        database: Database,
        listener: Listener,
        commands: CommandService,
        identity: Identity,
        source: ConfigSource | None,
        address: BrokerAddress,
        clock: Clock,
    ) -> None:
        self._database = database
        self.pairing = PairingService(
            registry=registry,
            credentials=identity.credentials,
            source=source,
            address=address,
            ca_pem=identity.certificates.ca_pem,
            clock=clock,
        )
        self.push = ConfigPush(registry=registry, pairing=self.pairing, clock=clock)
        self.push.transmit = listener.deliver
        self.changes = DeviceService(registry=registry, database=database, inheritance=identity.inheritance)
        for gone in (registry.removed, registry.replaced):
            # an order is meant for the machine, not for whichever gets its name
            gone.append(lambda device: commands.device_removed(device.device_id))

    async def run(self) -> None:
        """Run the parts until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pairing.run(), name="pairing")
            group.create_task(self.push.run(), name="configurations")
            group.create_task(self.changes.run(), name="changes of devices")

    def accept_config_request(self, device_id: str, payload: bytes, _: int, receipt: object) -> None:
        """A paired device asks for its configuration: nothing to store, the answer goes to its own topic."""
        self._database.submit(_nothing, receipt=receipt)
        self.push.accept_request(device_id, payload)


def _nothing(_: object) -> None:
    """A job that only takes its turn."""
