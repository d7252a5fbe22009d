"""A process that sends commands to restless devices and is killed by the test that started it.

Writes to its log, in one write each, ``A <id>`` when a command was accepted and ``W <id> <deliver>`` when one was
written.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

from appliance.contract.command import SendCommand
from appliance.contract.times import Clock
from appliance.services.commands import CommandService
from appliance.store.database import Database
from appliance.store.outbox import Outbox
from tests.services.command_kit import Registry

DEVICES = [f"d{number}" for number in range(5)]


class Restless:
    """Devices that come and go, and acknowledge and answer when they like."""

    def __init__(self, service: CommandService, log: int, chance: random.Random, *, calm: bool) -> None:
        self.service = service
        self.log = log
        self.chance = chance
        self.calm = calm
        self.connected: dict[str, int] = {}
        self.connections = 0
        service.transmit = self.transmit

    def note(self, line: str) -> None:
        os.write(self.log, line.encode() + b"\n")

    def transmit(
        self, device_id: str, topic: str, payload: bytes, /, *, redelivery: bool, on_ack: Callable[[], None]
    ) -> bool:
        connection = self.connected.get(device_id)
        if connection is None:
            return False
        body = json.loads(payload)
        self.note(f"W {body['command_id']} {body['action']}")

        def acknowledge() -> None:
            if self.connected.get(device_id) == connection:
                on_ack()
                if self.calm or self.chance.random() < 0.5:
                    answer = json.dumps({"status": "ok", "command_id": body["command_id"]}).encode()
                    self.service.accept_response(device_id, answer, 0, None)

        if self.calm or self.chance.random() < 0.8:
            asyncio.get_running_loop().call_later(0 if self.calm else self.chance.random() / 200, acknowledge)
        return True

    def toggle(self, device_id: str) -> None:
        if self.connected.pop(device_id, None) is not None:
            self.service.device_gone(device_id)
        else:
            self.connections += 1
            self.connected[device_id] = self.connections
            self.service.device_ready(device_id)


def _undelivered(service: CommandService) -> bool:
    entries = service._open.entries.values()
    return any(entry.row is None or entry.row.undelivered for entry in entries)


async def main(folder: Path, log: Path, life: int) -> None:
    calm = life < 0
    database = await Database.open(folder)
    devices = Registry()
    for device_id in DEVICES:
        devices.add(device_id)
    service = CommandService(outbox=Outbox(database), devices=devices, clock=Clock())
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    restless = Restless(service, descriptor, random.Random(life), calm=calm)
    running = asyncio.create_task(service.run(), name="commands")
    for device_id in DEVICES:
        restless.toggle(device_id)
    if calm:
        async with asyncio.timeout(30):
            while not service._resumed.is_set() or _undelivered(service):
                await asyncio.sleep(0.01)
        running.cancel()
        await database.close()
        return
    restless.note("ready")
    number = 0
    while True:
        number += 1
        for device_id in DEVICES:
            if restless.chance.random() < 0.3:
                restless.toggle(device_id)
            deliver = restless.chance.choice(["at_most_once", "at_least_once"])
            order = SendCommand.model_validate(
                {
                    "device_id": device_id,
                    "action": deliver,
                    "deliver": deliver,
                    "command_id": f"{device_id}-{life:03}-{number:06}",
                    "expires_in_s": 3600,
                }
            )
            if service.open_count(device_id) < 90:
                restless.note(f"A {(await service.send(order)).command_id}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
