"""What became of every reading: the devices' own record against what Odoo has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from firmware_sim.record import FleetRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The figures of the demo's last line. Readings, except where the name says otherwise."""

    devices: int
    paired: int
    published: int
    acknowledged: int
    in_odoo: int
    waiting: int
    """Messages on the appliance's disk that Odoo has not got."""
    parked: int
    """Messages that Odoo refused for good."""
    lost: int
    """Acknowledged to the device, and not in Odoo."""
    duplicates: int
    """In Odoo more than once, every copy after the first counted."""
    commands_sent: int
    commands_done: int
    update: str
    """The state of the firmware update that one device was sent."""
    odd: int
    """What devices said wrong on purpose: repeats, and messages to other devices' topics."""
    connections_lost: int
    """Connections of devices that ended before the demo did, those of the update's restart among them."""
    complete: bool
    """False if a log reached its limit, so that not everything could be compared."""

    def failures(self) -> list[str]:
        """Why this is no success, a sentence each; empty if it is one."""
        checks = (
            (self.paired == self.devices, f"devices that were not paired: {self.devices - self.paired}"),
            (self.published > 0, "nothing was published"),
            (self.in_odoo > 0, "nothing arrived in Odoo"),
            (
                self.acknowledged == self.published,
                f"readings published and not acknowledged: {self.published - self.acknowledged}",
            ),
            (self.waiting == 0, f"messages that still wait on the appliance's disk: {self.waiting}"),
            (self.parked == 0, f"messages that Odoo refused and the appliance parked: {self.parked}"),
            (self.lost == 0, f"readings acknowledged and not in Odoo: {self.lost}"),
            (self.duplicates == 0, f"readings in Odoo more than once: {self.duplicates}"),
            (self.commands_sent >= self.devices, f"commands sent: {self.commands_sent}, that is not one per device"),
            (
                self.commands_done == self.commands_sent,
                f"commands not answered: {self.commands_sent - self.commands_done}",
            ),
            (self.update == "installed", f"the firmware update was not installed, but {self.update}"),
            (self.complete, "a log reached its limit, so that not everything could be compared"),
        )
        return [sentence for good, sentence in checks if not good]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the devices' record and Odoo's differ."""

    in_odoo: int
    lost: int
    duplicates: int


def compare(record: FleetRecord, in_odoo: Iterable[tuple[str, str]]) -> Comparison:
    """Compare (device, msg_id) of the record with those that took effect in Odoo; other devices' are left out."""
    devices = {device for device, _ in record.published}
    effects = Counter(reading for reading in in_odoo if reading[0] in devices)
    return Comparison(
        in_odoo=len(effects),
        lost=sum(reading not in effects for reading in record.acknowledged),
        duplicates=sum(effects.values()) - len(effects),
    )
