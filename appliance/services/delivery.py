"""Writing commands to devices: one in flight for each, in order, counted on disk before the bytes go out.

A device has one command in flight, from the claim until its PUBACK or the end of its connection, even if the command
expires or is answered meanwhile. After a crash the count of deliveries may be higher than what was written, never
lower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics
from appliance.services.changes import ChangeQueue
from appliance.services.lanes import Entry, Lane, OpenCommands
from appliance.store import command_rules as rules
from appliance.store.outbox import Moment, OutboxRow, Outcome


class CommandTarget(Protocol):
    """What must be known of a device to send it a command."""

    @property
    def enabled(self) -> bool: ...
    @property
    def config(self) -> DeviceConfig: ...
    @property
    def topics(self) -> DeviceTopics: ...


class DeviceLookup(Protocol):
    """The device registry, as far as it is needed here."""

    def get(self, device_id: str, /) -> CommandTarget | None: ...


class Transmit(Protocol):
    """Writes a command to a device's live session.

    True: it was written to a session that holds a subscription for the topic. ``on_ack`` is called on the event loop
    when the device has acknowledged it (at once where the subscription is QoS 0), never if the connection ends first.
    False: nothing was written.
    """

    def __call__(
        self, device_id: str, topic: str, payload: bytes, /, *, redelivery: bool, on_ack: Callable[[], None]
    ) -> bool: ...


def not_connected(
    device_id: str, topic: str, payload: bytes, /, *, redelivery: bool, on_ack: Callable[[], None]
) -> bool:
    return False


class Delivery:
    """Decides what is written when. ``now`` reads the clocks, ``wake`` asks the owner to look at the deadlines."""

    def __init__(
        self,
        *,
        commands: OpenCommands,
        changes: ChangeQueue[Outcome],
        devices: DeviceLookup,
        now: Callable[[], Moment],
        wake: Callable[[], None],
    ) -> None:
        self.transmit: Transmit = not_connected
        self._open = commands
        self._changes = changes
        self._devices = devices
        self._now = now
        self._wake = wake
        self._subscribed: set[str] = set()
        """Devices whose connection holds a subscription for their command topic."""

    def device_ready(self, device_id: str) -> None:
        """The device has subscribed to its command topic, perhaps again."""
        self._subscribed.add(device_id)
        lane = self._open.lanes.get(device_id)
        if lane is not None:
            self.pump(lane)

    def device_gone(self, device_id: str) -> None:
        """Its connection ended: what was not acknowledged is to be written again, or has had its deliveries."""
        self._subscribed.discard(device_id)
        lane = self._open.lanes.get(device_id)
        entry = lane.flight if lane is not None else None
        if lane is None or entry is None or not entry.on_wire:
            # a claim that is being stored finds out by itself
            return
        entry.on_wire = False
        lane.flight = None
        if entry.row is not None and entry.row.undelivered:
            if rules.used_up(entry.row):
                self.give_up(entry, entry.row)
            else:
                lane.waiting.appendleft(entry)
        self._open.tidy(lane)

    def give_up(self, entry: Entry, row: OutboxRow) -> None:
        """No further delivery is allowed, and none is on its way."""
        self._changes.add(partial(rules.give_up, position=row.position, moment=self._now()), partial(self.note, entry))

    def reserve(self, entry: Entry) -> bool:
        """Whether a command that is being stored can be claimed with it; it is in flight then."""
        lane = self._open.lanes[entry.device_id]
        if entry.device_id not in self._subscribed or lane.flight is not None or lane.waiting[0] is not entry:
            return False
        lane.flight = lane.waiting.popleft()
        return True

    def added(self, entry: Entry, outcome: Outcome) -> None:
        """A new command is on disk, or was there already and is not new."""
        if not outcome.changed:
            self.not_added(entry)
        elif self._open.lanes[entry.device_id].flight is entry:
            self._claimed(entry, outcome)
        else:
            self.note(entry, outcome)

    def not_added(self, entry: Entry) -> None:
        """It is not to be sent after all."""
        lane = self._open.lanes[entry.device_id]
        if lane.flight is entry:
            lane.flight = None
        self._open.drop(entry)
        self.pump(lane)

    def note(self, entry: Entry, outcome: Outcome) -> None:
        """Take over what was committed, and see to the device's next command."""
        if outcome.row is not None:
            self._open.note(entry, outcome.row)
        lane = self._open.lanes.get(entry.device_id)
        if lane is not None:
            self.pump(lane)
            self._open.tidy(lane)

    def pump(self, lane: Lane) -> None:
        """Claim the next command of a device, if it can have one now."""
        if lane.flight is not None or not lane.waiting or lane.device_id not in self._subscribed:
            return
        row = lane.waiting[0].row
        if row is None or self._target(lane.device_id) is None:
            return
        moment = self._now()
        if row.deadline_ms <= moment.steady_ms:
            # it expires first, and then it is the next one's turn
            self._wake()
            return
        entry = lane.flight = lane.waiting.popleft()
        self._changes.add(partial(rules.claim, position=row.position, moment=moment), partial(self._claimed, entry))

    def _claimed(self, entry: Entry, outcome: Outcome) -> None:
        """The delivery is counted on disk: write it, or count it back."""
        row = outcome.row
        if row is None or not outcome.changed:
            self._open.lanes[entry.device_id].flight = None
            self.note(entry, outcome)
            return
        self._open.note(entry, row)
        if not self._written(entry, row, outcome.payload):
            change = partial(rules.unclaim, position=row.position, moment=self._now())
            self._changes.add(change, partial(self._unclaimed, entry))

    def _written(self, entry: Entry, row: OutboxRow, payload: bytes) -> bool:
        target = self._target(entry.device_id)
        if target is None or entry.device_id not in self._subscribed or row.deadline_ms <= self._now().steady_ms:
            return False
        entry.on_wire = entry.early_ack = False
        on_ack = partial(self._acknowledged, entry, row.deliveries)
        redelivery = row.deliveries > 1
        if not self.transmit(entry.device_id, target.topics.command, payload, redelivery=redelivery, on_ack=on_ack):
            self._subscribed.discard(entry.device_id)
            return False
        entry.on_wire = True
        if entry.early_ack:
            on_ack()
        elif entry.device_id not in self._subscribed:
            # the connection broke while it was written to
            self.device_gone(entry.device_id)
        return True

    def _unclaimed(self, entry: Entry, outcome: Outcome) -> None:
        lane = self._open.lanes[entry.device_id]
        lane.flight = None
        if outcome.row is not None and outcome.row.undelivered:
            lane.waiting.appendleft(entry)
        self.note(entry, outcome)

    def _acknowledged(self, entry: Entry, delivery: int) -> None:
        lane = self._open.lanes.get(entry.device_id)
        row = entry.row
        if lane is None or row is None or lane.flight is not entry or row.deliveries != delivery:
            return
        if not entry.on_wire:
            entry.early_ack = True
            return
        entry.on_wire = False
        lane.flight = None
        change = partial(rules.acknowledge, position=row.position, moment=self._now())
        self._changes.add(change, partial(self.note, entry))
        # claimed in the same transaction, which stores this acknowledgement first
        self.pump(lane)
        self._open.tidy(lane)

    def _target(self, device_id: str) -> CommandTarget | None:
        target = self._devices.get(device_id)
        return target if target is not None and target.enabled else None
