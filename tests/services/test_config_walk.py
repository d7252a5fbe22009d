"""Whatever happens in whatever order: a device is never locked out, its topics are never taken from under it, and in
the end it knows what it should, and only its newest secret opens the door."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from appliance.contract.device import encode
from appliance.services.config_push import PushLimits
from tests.services.config_kit import CREDENTIALS, Box, Delivery, opened
from tests.services.odoo_source import OdooSource
from tests.store.support import ManualClock

STEPS = 70
TEMPLATES: list[dict[str, str]] = [
    {},
    {"telemetry": "plant/{device}/t"},
    {"telemetry": "line/{device}/t", "command": "line/{device}/c"},
    {"config_response": "cfg/{device}", "telemetry": "cell/{device}/t"},
]


@dataclass
class Machine:
    """What the device has in its flash memory."""

    password: str
    config: dict[str, Any]
    handled: int = 0
    """Deliveries of this start of the appliance that it has dealt with."""

    def save(self, answer: dict[str, Any]) -> None:
        self.password = answer["mqtt"].get("password") or self.password
        self.config = {key: value for key, value in answer.items() if key != "time"}


@dataclass
class Walk:
    """One device, one appliance, and what happens to both."""

    random: Random
    machine: Machine
    version: int = 1
    secret_version: int = 0
    topics: int = 0
    changes_of_topics: int = 0
    """Since the device was known to have all."""
    trace: list[str] = field(default_factory=list)

    def login(self, box: Box) -> None:
        device = box.device()
        generation = CREDENTIALS.accepted_generation(device, self.machine.password)
        assert generation is not None, "it is locked out"
        wanted = self.machine.config["topics"]["config_response"]
        usable = [device.topics, *device.earlier]
        assert wanted in [each.config_response for each in usable], "nothing can reach it"
        box.broker.login(device.device_id, generation)

    def check(self, box: Box) -> None:
        device = box.device()
        assert CREDENTIALS.accepted_generation(device, self.machine.password) is not None
        usable = [each.telemetry for each in (device.topics, *device.earlier)]
        assert self.machine.config["topics"]["telemetry"] in usable, "what it sends is dropped"

    async def step(self, box: Box) -> bool:
        """Something happens; ``True`` for a restart of the appliance."""
        roll = self.random.random()
        if roll < 0.2:
            await self.change(box)
        elif roll < 0.28:
            self.secret_version += 1
            await box.change(secret_version=self.secret_version)
        elif roll < 0.45:
            self.login(box)
        elif roll < 0.5:
            box.broker.logout("press-07")
        elif roll < 0.8:
            await self.receive(box)
        elif roll < 0.87:
            generation = CREDENTIALS.accepted_generation(box.device(), self.machine.password)
            self.machine.handled = len(box.broker.sent)  # what came before, it has read before
            answer = box.pairing.current(box.device(), generation=generation or 0)
            if self.random.random() < 0.5:  # else it gets lost on the way
                self.machine.save(decoded(encode(answer)))
        elif roll < 0.95:
            box.clock.forward(self.random.choice([60, 1800, 4000]))
            await box.push.sweep()
        else:
            return True
        await box.settled()
        return False

    async def change(self, box: Box) -> None:
        self.version += 1
        if box.push.is_current(box.device()):
            self.changes_of_topics = 0
        # as many earlier sets as are kept: a device that does not acknowledge what it saves can be lost beyond that
        if self.changes_of_topics < 2 and self.random.random() < 0.5:
            self.topics = self.random.randrange(len(TEMPLATES))
            self.changes_of_topics += 1
        config = {"config_version": self.version, "topics": TEMPLATES[self.topics], "settings": {"n": self.version}}
        await box.change(config=config)

    async def receive(self, box: Box) -> None:
        """The newest delivery that it has not dealt with: saved or not, acknowledged or not, but no ack unsaved."""
        if len(box.broker.sent) <= self.machine.handled:
            return
        delivery: Delivery = box.broker.sent[-1]
        self.machine.handled = len(box.broker.sent)
        fate = self.random.random()
        if fate < 0.8:
            self.machine.save(delivery.answer)
        if fate < 0.6:
            delivery.ack()


def decoded(payload: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(payload)
    return found


@pytest.mark.parametrize("seed", range(16))
async def test_a_walk(tmp_path: Path, seed: int) -> None:
    clock, odoo = ManualClock(), OdooSource()
    limits = PushLimits(pause_s=0)
    async with contextlib.AsyncExitStack() as stack:
        box = await stack.enter_async_context(opened(tmp_path, clock=clock, odoo=odoo, limits=limits))
        await box.pair_fully()
        first = decoded(encode(box.pairing.configuration.answer(box.device(), request_id=None, ca=False, secret_of=1)))
        machine = Machine(password=first["mqtt"]["password"], config=first)
        walk = Walk(Random(seed), machine)
        for _ in range(STEPS):
            if await walk.step(box):
                await box.settled()
                await stack.aclose()
                box = await stack.enter_async_context(opened(tmp_path, clock=clock, odoo=odoo, limits=limits))
                machine.handled = 0
            walk.check(box)
        # from now on all goes well
        for _ in range(4):
            clock.forward(3600)
            walk.login(box)
            await box.settled()
            while len(box.broker.sent) > machine.handled:
                delivery = box.broker.sent[machine.handled]
                machine.handled += 1
                machine.save(delivery.answer)
                delivery.ack()
                await box.settled()
        clock.forward(3600)
        await box.push.sweep()
        device = box.device()
        assert box.push.is_current(device)
        assert machine.config["config_version"] == walk.version
        assert machine.config["topics"] == device.topics.as_dict()
        assert machine.password == CREDENTIALS.password("press-07", device.generation)
        assert (device.valid_from, device.earlier) == (device.generation, ())
        assert device.secret_version == walk.secret_version
