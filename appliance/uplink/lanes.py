"""Positions in the buffer, and what was taken there that Odoo has not answered for yet.

A message is left behind when Odoo put it off (``retry``), said nothing about it, or must see it once more before it is
parked. The buffer knows which messages are unsettled, so lanes remember positions and not messages, and it does not
matter how many are left behind.

All kinds but telemetry are sent in the order of ``seq`` per device (contract, "Odoo HTTP API"). A device of which such
a message was left behind is *stuck*: its later ones stay behind too. Telemetry is never held up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from appliance.contract.odoo import Kind, StoredMessage
from appliance.store.buffer import Batch

NOTHING = Batch([], floor=1, settled=0, stored=0, below=0, epoch="", reached=0)


def is_ordered(message: StoredMessage) -> bool:
    """Whether the order of this message among its device's matters."""
    return message.kind is not Kind.TELEMETRY


@dataclass(slots=True, eq=False)
class Lane:
    """A position in the buffer, and the messages taken there that Odoo has not answered for yet."""

    after: int = 0
    """All up to this ``seq`` has been taken."""
    pieces: list[list[StoredMessage]] = field(default_factory=list)
    """A stack: the last one is sent next. They are in order, and hold no more than one take of the buffer."""
    not_before: float = 0.0
    """Monotonic time before which nothing is sent."""
    posted_at: float = float("-inf")
    """When something was sent last."""
    turn: int = 0
    """Which turn of all was its last."""
    was_full: bool = False
    """Whether its last take of the buffer was as much as there may be in a batch."""
    stuck: set[str] = field(default_factory=set)
    fruitless: int = 0
    """Answers in a row that settled nothing."""
    failures: int = 0
    """How often in a row the next message, alone in its batch, had no usable answer."""
    batch: Batch = NOTHING
    """What was taken last, for what is told of its epoch."""

    def fill(self, batch: Batch, *, limit: int, up_to: int | None = None, alone: Collection[int] = ()) -> bool:
        """Take over a batch, as far as ``up_to``; each message of ``alone`` becomes a piece of its own."""
        messages = [message for message in batch.messages if up_to is None or message.seq <= up_to]
        self.was_full = len(batch.messages) >= limit
        self.after = batch.reached
        if not messages:
            return False
        self.batch = batch
        self.pieces = _runs(messages, alone)[::-1]
        return True

    def drop_stuck(self) -> list[StoredMessage]:
        """Take the messages of stuck devices out of the next piece; returns them."""
        if not self.stuck:
            return []
        kept: list[StoredMessage] = []
        dropped: list[StoredMessage] = []
        for message in self.pieces[-1]:
            (dropped if message.device in self.stuck and is_ordered(message) else kept).append(message)
        if kept:
            self.pieces[-1] = kept
        else:
            self.drop()
        return dropped

    def split(self, count: int) -> None:
        """Send only the first ``count`` messages of the next piece, then the rest."""
        piece = self.pieces[-1]
        if 0 < count < len(piece):
            self.pieces[-1:] = [piece[count:], piece[:count]]
            self.failures = 0

    def drop(self) -> list[StoredMessage]:
        """The next piece is done with."""
        self.failures = 0
        return self.pieces.pop()

    def drop_all(self) -> list[StoredMessage]:
        """All that was taken is done with."""
        messages = [message for piece in reversed(self.pieces) for message in piece]
        self.pieces.clear()
        self.failures = 0
        return messages


@dataclass(slots=True, eq=False)
class AheadLane(Lane):
    """Runs ahead through its part of the buffer."""

    left_last: int = 0
    """The last message that was left behind."""
    stuck_last: dict[str, int] = field(default_factory=dict)
    """The same for each stuck device."""

    @property
    def passed(self) -> int:
        """All unsettled messages up to this ``seq`` were left behind."""
        return self.pieces[-1][0].seq - 1 if self.pieces else self.after

    def leave(self, messages: Sequence[StoredMessage]) -> None:
        """Leave messages behind."""
        for message in messages:
            self.left_last = max(self.left_last, message.seq)
            if is_ordered(message):
                self.stuck.add(message.device)
                self.stuck_last[message.device] = max(self.stuck_last.get(message.device, 0), message.seq)


@dataclass(slots=True, eq=False)
class LeftLane(Lane):
    """Sends again what was left behind, in passes from the beginning of its part of the buffer."""

    waiting: bool = False
    """Whether anything was left behind."""
    up_to: int | None = None
    """Where the present pass ends; ``None`` between passes."""
    left_some: bool = False
    settled_some: bool = False
    passes: int = 0
    """Passes in a row that settled nothing."""

    def begin_pass(self, start: int, ahead: AheadLane) -> None:
        """Start at the beginning again, up to where the other lane is."""
        self.after, self.up_to = start, ahead.passed
        self.stuck = set()
        self.left_some = self.settled_some = False

    def end_pass(self, ahead: AheadLane) -> None:
        """All up to the end of the pass was sent once more: take stock of who is stuck, and what still waits."""
        up_to, self.up_to = self.up_to or 0, None
        ahead.stuck_last = {device: seq for device, seq in ahead.stuck_last.items() if seq > up_to}
        ahead.stuck = self.stuck | ahead.stuck_last.keys()
        self.waiting = self.left_some or ahead.left_last > up_to
        self.passes = self.passes + 1 if self.waiting and not self.settled_some else 0

    def leave(self, messages: Sequence[StoredMessage]) -> None:
        """Leave messages behind once more, until the next pass."""
        self.stuck |= {message.device for message in messages if is_ordered(message)}
        self.left_some = self.left_some or bool(messages)


@dataclass(slots=True, eq=False)
class Track:
    """A part of the buffer: one lane runs ahead through it, the other sends again what that left behind."""

    name: Literal["ordered", "live", "backlog"]
    """``ordered``: all kinds but telemetry."""
    start: int = 0
    """Its messages are those above this ``seq``."""
    end: int | None = None
    """And up to this one; ``None``: it has no end."""
    ahead: AheadLane = field(default_factory=AheadLane)
    left: LeftLane = field(default_factory=LeftLane)

    def __post_init__(self) -> None:
        self.ahead.after = self.start


def _runs(messages: Sequence[StoredMessage], alone: Collection[int]) -> list[list[StoredMessage]]:
    if not alone:
        return [list(messages)]
    pieces: list[list[StoredMessage]] = []
    join = False
    for message in messages:
        single = message.seq in alone
        if join and not single:
            pieces[-1].append(message)
        else:
            pieces.append([message])
        join = not single
    return pieces
