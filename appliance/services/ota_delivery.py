"""Writing offers and cancellations to devices: one for each device, counted on disk before the bytes go out.

After a crash the count of deliveries may be higher than what was written, never lower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

from appliance.contract.ota import OFFER_BYTES, OtaAction, message, offer
from appliance.services.changes import ChangeQueue
from appliance.services.delivery import CommandTarget, DeviceLookup, Transmit
from appliance.services.firmware_links import FirmwareLinks
from appliance.services.rendering import publish_bytes
from appliance.store import update_rules as rules
from appliance.store.outbox import Moment
from appliance.store.updates import UpdateOutcome, UpdateRow

Sort = Literal["order", "cancellation"]


class OpenUpdate:
    """One open update. ``row`` is as last committed."""

    __slots__ = ("claiming", "on_wire", "row", "serial")

    def __init__(self, row: UpdateRow, serial: str | None = None) -> None:
        self.row = row
        self.serial = serial
        """Of the device, as long as it is known."""
        self.claiming = False
        self.on_wire: Sort | None = None
        """What was written to the present connection, and no PUBACK has come."""


class Settle(Protocol):
    """Takes over what was committed for an update."""

    def __call__(self, entry: OpenUpdate, outcome: UpdateOutcome, /) -> None: ...


def _not_connected(
    device_id: str, topic: str, payload: bytes, /, *, redelivery: bool, on_ack: Callable[[], None]
) -> bool:
    return False


class OfferDelivery:
    """Decides what is written when. ``note`` takes over what was committed and comes back with :meth:`pump`."""

    def __init__(
        self,
        *,
        links: FirmwareLinks,
        changes: ChangeQueue[UpdateOutcome],
        devices: DeviceLookup,
        deadlines: rules.Deadlines,
        now: Callable[[], Moment],
        note: Settle,
    ) -> None:
        self.transmit: Transmit = _not_connected
        self._links = links
        self._changes = changes
        self._devices = devices
        self._deadlines = deadlines
        self._now = now
        self._note = note
        self._subscribed: set[str] = set()
        """Devices whose connection holds a subscription for their ``ota_notify`` topic."""

    def device_ready(self, device_id: str, entry: OpenUpdate | None) -> None:
        """The device has subscribed to its topic, perhaps again."""
        self._subscribed.add(device_id)
        if entry is not None:
            self.pump(entry)

    def device_gone(self, device_id: str, entry: OpenUpdate | None) -> None:
        """Its connection ended: what was not acknowledged is to be written again, or has had its deliveries."""
        self._subscribed.discard(device_id)
        if entry is None or entry.on_wire is None:
            return
        entry.on_wire = None
        if entry.row.due and rules.used_up(entry.row):
            change = partial(rules.give_up, position=entry.row.position, moment=self._now())
            self._changes.add(change, partial(self._note, entry))

    def pump(self, entry: OpenUpdate) -> None:
        """Claim what is due for the device, if it can have it now."""
        row = entry.row
        if not row.due or entry.claiming or entry.on_wire == _sort(row) or row.device not in self._subscribed:
            return
        target = self._target(row.device)
        if target is None or row.deadline_ms <= self._now().steady_ms:
            return
        problem = size_problem(target, self._payload(row))
        if problem is not None:
            if row.deliveries or row.state == "cancelling":
                return  # its topic has become longer since; it ends with its deadline
            change = partial(
                rules.fail, position=row.position, reason="offer_too_large", error=problem, moment=self._now()
            )
            self._changes.add(change, partial(self._note, entry))
            return
        entry.claiming = True
        change = partial(rules.claim, position=row.position, moment=self._now())
        self._changes.add(change, partial(self._claimed, entry))

    def _claimed(self, entry: OpenUpdate, outcome: UpdateOutcome) -> None:
        """The delivery is counted on disk: write it, or count it back."""
        entry.claiming = False
        row = outcome.row
        if row is None or not outcome.changed:
            self._note(entry, outcome)
            return
        entry.row = row
        if self._written(entry, row):
            self._note(entry, outcome)
        else:
            entry.claiming = True  # until it is counted back
            change = partial(rules.unclaim, position=row.position, moment=self._now())
            self._changes.add(change, partial(self._unclaimed, entry))

    def _unclaimed(self, entry: OpenUpdate, outcome: UpdateOutcome) -> None:
        entry.claiming = False
        self._note(entry, outcome)

    def _written(self, entry: OpenUpdate, row: UpdateRow) -> bool:
        target = self._target(row.device)
        if target is None or row.device not in self._subscribed:
            return False
        sort = entry.on_wire = _sort(row)
        on_ack = partial(self._acknowledged, entry, sort)
        topic, payload = target.topics.ota_notify, self._payload(row)
        if not self.transmit(row.device, topic, payload, redelivery=row.deliveries > 1, on_ack=on_ack):
            entry.on_wire = None
            self._subscribed.discard(row.device)
            return False
        return True

    def _acknowledged(self, entry: OpenUpdate, sort: Sort) -> None:
        if entry.on_wire != sort:
            return
        entry.on_wire = None
        change = partial(
            rules.acknowledge,
            position=entry.row.position,
            cancellation=sort == "cancellation",
            moment=self._now(),
            deadlines=self._deadlines,
        )
        # until that is committed the row is still due, and must not be written again
        entry.claiming = True
        self._changes.add(change, partial(self._unclaimed, entry))

    def _payload(self, row: UpdateRow) -> bytes:
        if row.state == "cancelling":
            return message("cancel_update", row.update_id, {})
        return order_payload(row, self._links)

    def _target(self, device_id: str) -> CommandTarget | None:
        target = self._devices.get(device_id)
        return target if target is not None and target.enabled else None


def order_payload(row: UpdateRow, links: FirmwareLinks) -> bytes:
    """The offer of an update whose file is here, or the order to roll back; the same each time."""
    if row.action == "start_update" and row.sha256 is not None and row.size is not None:
        url = links.url(row.sha256, position=row.position, expires_ms=row.link_expires_ms or 0)
        return offer(row.update_id, row.ordered, url=url, size=row.size, sha256=row.sha256)
    action: OtaAction = row.action
    return message(action, row.update_id, row.ordered)


def size_problem(target: CommandTarget, payload: bytes) -> str | None:
    """Why a message is too large for a device, or ``None``."""
    packet_bytes = publish_bytes(target.topics.ota_notify, payload)
    most = OFFER_BYTES - 1
    if target.config.max_packet_bytes is not None:
        most = min(most, target.config.max_packet_bytes)
    if packet_bytes <= most:
        return None
    return f"the packet would have {packet_bytes} bytes, the device takes {most} at most"


def _sort(row: UpdateRow) -> Sort:
    return "cancellation" if row.state == "cancelling" else "order"
