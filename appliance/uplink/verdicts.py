"""What becomes of each message after an answer: settled, parked, or sent again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from appliance.contract.odoo import BatchResult, StoredMessage
from appliance.store.buffer import Rejection
from appliance.uplink.answers import printable

REMEMBERED_SUSPECTS = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """A batch by what its answer means for each message."""

    done: list[int]
    parked: list[Rejection]
    left: list[StoredMessage]
    """To be sent again: Odoo put them off, or said nothing about them."""


def outcome(sent: Sequence[StoredMessage], result: BatchResult) -> Outcome:
    """Match results to what was sent; results for anything else are ignored."""
    seqs = {message.seq for message in sent}
    done = {item.seq for item in result.results if item.seq in seqs and item.status in ("stored", "duplicate")}
    parked: dict[int, Rejection] = {}
    for item in result.results:
        # should Odoo contradict itself: what it has must never be parked as well
        if item.status == "rejected" and item.seq in seqs and item.seq not in done:
            reason = Rejection(item.seq, printable(item.code or "rejected", 64), printable(item.message or ""))
            parked.setdefault(item.seq, reason)
    left = [message for message in sent if message.seq not in done and message.seq not in parked]
    return Outcome(sorted(done), list(parked.values()), left)


@dataclass(slots=True)
class _Record:
    tries: int
    accepted_before: int


class Suspects:
    """Messages that Odoo refused while they were alone in their batch, and how often.

    After ``tries`` a message may be parked. After ``in_a_row`` refusals with no answer of the contract in between it
    is not the messages' fault, and none is parked: one wrong setting must not park a backlog.
    """

    def __init__(self, *, tries: int, in_a_row: int) -> None:
        self._tries = tries
        self._most_in_a_row = in_a_row
        self._records: dict[int, _Record] = {}
        self._in_a_row = 0
        self._accepted = 0

    @property
    def seqs(self) -> Collection[int]:
        """Who must be sent alone."""
        return self._records.keys()

    def refused(self, seq: int, *, needs_proof: bool) -> Literal["again", "park", "alarm"]:
        """One more refusal. ``needs_proof``: it may be parked only if others were accepted since its first one."""
        self._in_a_row += 1
        record = self._records.get(seq) or _Record(0, self._accepted)
        record.tries += 1
        if len(self._records) < REMEMBERED_SUSPECTS:  # the others wait for their turn
            self._records[seq] = record
        if self._in_a_row > self._most_in_a_row:
            return "alarm"
        proven = not needs_proof or self._accepted > record.accepted_before
        return "park" if record.tries >= self._tries and proven else "again"

    def answered(self, *, accepted: bool) -> None:
        """Odoo gave a result for each message of a batch; ``accepted``: it took or parked one at least."""
        self._in_a_row = 0
        self._accepted += accepted

    def forget(self, seqs: Iterable[int]) -> None:
        """These are settled or parked."""
        if self._records:
            for seq in seqs:
                self._records.pop(seq, None)

    def clear(self) -> None:
        """The buffer has become another one."""
        self._records.clear()
