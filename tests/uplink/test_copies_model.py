"""Any order of starting, copying, restoring, crashing and losing answers: no reading is lost or taken twice.

The boxes are models of what a data folder holds; the rules by which they find out about each other are the appliance's
(:mod:`appliance.uplink.compare`), and the Odoo is the stand-in's.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from appliance.contract.sync import FENCED, MOST_STARTS, KnownEpoch, KnownStart
from appliance.store.standing import Start
from appliance.uplink.compare import forgotten_from, forked_at, taken_over_from
from firmware_sim.odoo import StandIn
from firmware_sim.standin.refusal import RefusalError

LIVES = int(os.environ.get("LIVES", "60"))
"""Random lives; more of them in the long run."""
SEEDS = [*range(LIVES), *(seed for seed in (182, 199, 258, 456, 613, 630) if seed >= LIVES)]
"""And some lives in which a copy was made between a start and its first answer."""
STEPS = 80
GATEWAY = "g"


@dataclass
class Message:
    seq: int
    text: str
    epoch: str
    settled: bool = False


@dataclass
class Disk:
    """What a data folder holds."""

    messages: list[Message] = field(default_factory=list)
    epoch: str = ""
    starts: list[Start] = field(default_factory=list)
    stored: Counter[str] = field(default_factory=Counter)
    settled: dict[str, int] = field(default_factory=dict)
    may_take_over: bool = False


class World:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.ids = 0
        self.stand_in = StandIn(api_key="k" * 20)
        self.stand_in.registry.create({"device_id": "press-07"})
        self.odoo = self.stand_in.gateways
        self.boxes: list[Box] = []
        self.log: list[str] = []

    def uuid(self) -> str:
        self.ids += 1
        return str(UUID(int=self.ids))

    def effects(self) -> Counter[str]:
        rows = self.stand_in.state.rows("SELECT payload FROM effects")
        return Counter(row[0].strip('"') for row in rows)


class Box:
    """One running process over one disk."""

    def __init__(self, world: World, name: str, disk: Disk) -> None:
        self.world = world
        self.name = name
        self.disk = disk
        self.admitted = False
        self.admission = ""
        self.start()

    def start(self) -> None:
        self.admitted = False
        self.disk.epoch = self.disk.epoch or self.world.uuid()
        first = len(self.disk.messages) + 1
        self.disk.starts = [*self.disk.starts, Start(self.world.uuid(), first, False)]

    @property
    def unheard(self) -> list[Start]:
        if self.disk.starts[-1].answered:
            return self.disk.starts[-1:]
        answered = [number for number, start in enumerate(self.disk.starts) if start.answered]
        return self.disk.starts[answered[-1] + 1 if answered else 0 :]

    def told(self) -> list[dict[str, Any]]:
        previous = dict(zip([start.start for start in self.disk.starts[1:]], self.disk.starts, strict=False))
        return [
            {
                "start": start.start,
                "first_seq": start.first_seq,
                "previous": previous[start.start].start if start.start in previous else None,
            }
            for start in self.unheard
        ]

    def store(self) -> None:
        seq = len(self.disk.messages) + 1
        self.disk.messages.append(Message(seq, f"{self.name}/{self.world.uuid()[-6:]}", self.disk.epoch))

    def stand(self, epoch: str) -> SimpleNamespace:
        own = [message for message in self.disk.messages if message.epoch == epoch]
        last = len(self.disk.messages) if epoch == self.disk.epoch else own[-1].seq
        floor = next((message.seq for message in own if not message.settled), last + 1)
        return SimpleNamespace(
            epoch=epoch,
            first_seq=own[0].seq if own else last + 1,
            last_seq=last,
            floor=floor,
            settled=self.disk.settled.get(epoch, 0),
            stored=self.disk.stored[epoch],
            below=self.disk.stored[epoch] - sum(message.settled for message in own if message.seq > floor),
        )

    def sync(self, *, lost: bool) -> None:
        disk = self.disk
        names = dict.fromkeys([disk.epoch, *(message.epoch for message in reversed(disk.messages))])
        reported = [self.stand(epoch) for epoch in names]
        body = {
            "gateway": GATEWAY,
            "name": "n",
            "version": "1",
            "time": "t",
            "uptime_s": 1.0,
            "start": disk.starts[-1].start,
            "starts": self.told(),
            "epochs": [vars(stand) for stand in reported][:16],
        }
        fenced = False
        try:
            answer = self.world.odoo.sync(body)
        except RefusalError as refusal:
            if refusal.code != FENCED:
                raise
            answer, fenced = refusal.extra, True
        if lost:
            return
        known = {each["epoch"]: KnownEpoch.model_validate(each) for each in answer["known"]}
        fork = forked_at(
            known.get(disk.epoch), present=self.stand(disk.epoch), starts=disk.starts, unheard=self.unheard
        )
        if fenced:
            self.admitted = False
            if disk.may_take_over:
                self.renew(taken_over_from(fork, present=self.stand(disk.epoch), unheard=self.unheard))
            return
        if fork is not None:
            self.renew(fork)
            return
        for stand in reported:
            assert forgotten_from(known.get(stand.epoch), stand) is None, "an Odoo that was never restored"
        disk.starts = [*disk.starts[:-1], Start(disk.starts[-1].start, disk.starts[-1].first_seq, True)]
        disk.may_take_over = False
        self.admission = answer["admission"]
        self.admitted = True

    def renew(self, first_seq: int) -> None:
        self.admitted = False
        self.disk.epoch = self.world.uuid()
        for message in self.disk.messages[first_seq - 1 :]:
            if not message.settled:
                message.epoch = self.disk.epoch

    def post(self, *, lost: bool) -> None:
        waiting = [message for message in self.disk.messages if not message.settled]
        if not self.admitted or not waiting:
            return
        epoch = self.world.random.choice(waiting).epoch
        stand = self.stand(epoch)
        piece = [message for message in waiting if message.epoch == epoch]
        piece = sorted(self.world.random.sample(piece, min(len(piece), 4)), key=lambda message: message.seq)
        at = "2026-11-22T10:00:00.000Z"
        body: dict[str, Any] = {
            "contract": 1,
            "gateway": GATEWAY,
            "start": self.admission,
            "epoch": epoch,
            "floor": stand.floor,
            "settled": stand.settled,
            "stored": stand.stored,
            "below": stand.below,
            "messages": [
                {"seq": message.seq, "device": "press-07", "kind": "telemetry", "at": at, "payload": message.text}
                for message in piece
            ],
        }
        try:
            self.world.odoo.check_batch(body, 100)
            results = self.world.stand_in.inbox.accept_batch(body)
        except RefusalError as refusal:
            if refusal.code != FENCED:
                raise
            self.admitted = False
            return
        if lost:
            return
        for message, result in zip(piece, results, strict=True):
            assert result["status"] in ("stored", "duplicate")
            message.settled = True
            self.disk.stored[epoch] += 1
            self.disk.settled[epoch] = max(self.disk.settled.get(epoch, 0), message.seq)


def live(seed: int, *, forks: int) -> World:
    """One random life with so many copies and restores."""
    world, many = World(seed), forks > 1
    random = world.random
    world.boxes = [Box(world, "a", Disk())]
    backups: list[Disk] = []
    for step in range(STEPS):
        box = random.choice(world.boxes)
        what = random.choices(
            ["store", "sync", "post", "restart", "copy", "backup", "restore", "enrol"],
            [30, 25, 30, 6, 1.5, 3, 1.5, 1.5],
        )[0]
        lost = random.random() < 0.2
        world.log.append(f"{step} {box.name} {what}{' lost' if lost else ''}")
        if what == "store":
            box.store()
        elif what == "sync":
            box.sync(lost=lost)
        elif what == "post":
            box.post(lost=lost)
        elif what == "restart":
            box.start()
        elif what == "copy" and len(world.boxes) < 3 and forks:
            forks -= 1
            world.boxes.append(Box(world, "abc"[len(world.boxes)], copy.deepcopy(box.disk)))
        elif what == "backup":
            backups.append(copy.deepcopy(box.disk))
        elif what == "restore" and backups and forks:
            forks -= 1
            # what was only on the disk that is gone is gone with it
            box.disk = copy.deepcopy(random.choice(backups))
            box.start()
        elif what == "enrol" and many:
            box.disk.may_take_over = True
            box.start()
    return world


def be_heard(world: World, *, enrolled: bool) -> None:
    """Every box starts anew, several times, and says all it has; enrolled ones take over from others."""
    for _ in range(3):
        for box in world.boxes:
            box.disk.may_take_over = enrolled
            box.start()
            for _ in range(30):
                box.sync(lost=False)
                box.post(lost=False)
                box.post(lost=False)


def lost(world: World) -> set[str]:
    kept = {message.text for box in world.boxes for message in box.disk.messages}
    return kept - world.effects().keys()


@pytest.mark.parametrize("seed", SEEDS)
def test_once_copied_or_restored_no_reading_is_lost_or_stored_twice(seed: int) -> None:
    world = live(seed, forks=1)
    try:
        be_heard(world, enrolled=False)
        assert {text: count for text, count in world.effects().items() if count > 1} == {}
        be_heard(world, enrolled=True)
        assert lost(world) == set()
    finally:
        world.stand_in.state.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_however_often_copied_and_restored_no_reading_is_lost(seed: int) -> None:
    """What several copies have in common by halves may be sent twice; nothing is taken for another's repeat."""
    world = live(seed, forks=6)
    try:
        be_heard(world, enrolled=True)
        assert lost(world) == set()
    finally:
        world.stand_in.state.close()


# --- the rule itself --------------------------------------------------------------------------------------------


def known_with(*starts: KnownStart) -> KnownEpoch:
    return KnownEpoch(epoch="e", highest_seq=max(start.highest_seq for start in starts), starts=list(starts))


PRESENT = SimpleNamespace(first_seq=1, last_seq=9, floor=5, settled=4, stored=4)
OWN = [Start("first", 1, True), Start("second", 5, False), Start("third", 8, False)]
"""The folder was copied while ``second`` waited for its first answer."""


def test_what_a_common_start_has_sent_of_the_common_messages_keeps_its_names() -> None:
    known = known_with(KnownStart(start="first", highest_seq=4), KnownStart(start="second", first_seq=5, highest_seq=7))
    assert forked_at(known, present=PRESENT, starts=OWN, unheard=OWN[1:]) is None


def test_what_a_common_start_has_sent_beyond_them_is_somebody_elses() -> None:
    known = known_with(KnownStart(start="first", highest_seq=4), KnownStart(start="second", first_seq=5, highest_seq=8))
    assert forked_at(known, present=PRESENT, starts=OWN, unheard=OWN[1:]) == 8


def test_what_no_start_has_sent_that_odoo_tells_of_is_somebody_elses() -> None:
    known = known_with(KnownStart(start="first", highest_seq=4), KnownStart(start="second", first_seq=5, highest_seq=7))
    known = known.model_copy(update={"highest_seq": 8})
    assert forked_at(known, present=PRESENT, starts=OWN, unheard=OWN[1:]) == 5


@pytest.mark.parametrize(("answered", "fork"), [(True, None), (False, 2)])
def test_where_odoo_tells_the_newest_starts_only_one_that_was_answered_vouches_for_the_rest(
    answered: bool, fork: int | None
) -> None:
    own = [Start(f"s{number}", number, answered and number == 9) for number in range(2, MOST_STARTS + 3)]
    known = known_with(*(KnownStart(start=start.start, first_seq=start.first_seq) for start in own[:-1]))
    known.starts[-1] = known.starts[-1].model_copy(update={"highest_seq": own[-1].first_seq - 1})
    known = known.model_copy(update={"highest_seq": own[-1].first_seq - 1})
    present = SimpleNamespace(first_seq=1, last_seq=99, floor=2, settled=1, stored=1)
    assert forked_at(known, present=present, starts=own, unheard=own[8 if answered else 0 :]) == fork
