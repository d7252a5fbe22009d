"""What Odoo knows of an appliance, against what the appliance knows itself: was there a twin, was Odoo restored?

A twin is another copy of the same data folder, or this appliance's own later self before its disk was put back to a
backup. It goes on under the same names ``(epoch, seq)`` with other messages, and Odoo would take one of each pair for a
repeat of the other. Nothing of a start is sent before Odoo has answered its first ``sync``, so either of two copies is
found out in time: the first of them by the start of the second, the second by messages that it has not sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from appliance.contract.sync import MOST_STARTS, KnownEpoch
from appliance.store.standing import Start


class Stand(Protocol):
    """Where the appliance stands with an epoch, as it was reported (:class:`appliance.contract.sync.EpochReport`)."""

    @property
    def last_seq(self) -> int: ...
    @property
    def floor(self) -> int: ...
    @property
    def settled(self) -> int: ...
    @property
    def stored(self) -> int: ...


def forked_at(known: KnownEpoch | None, *, present: Stand, starts: Sequence[Start], start_seq: int) -> int | None:
    """From which message on the present epoch's names are not this appliance's alone; ``None``: all of them are.

    ``present`` is the present epoch, ``starts`` are the appliance's own with the present one last, ``start_seq`` is the
    first message it has never sent (all but ``known`` as they were before Odoo was asked).
    """
    if known is None:
        return None
    own = {start.start for start in starts}
    foreign = [start.start_seq for start in known.starts if start.start not in own]
    hidden = not known.starts and known.last_start is not None and known.last_start not in own
    unsent = start_seq if not starts[-1].answered else present.last_seq + 1
    if not foreign and not hidden and known.highest_seq < unsent:
        return None
    candidates = [*foreign]
    told = {start.start for start in known.starts}
    if not starts[-1].answered:
        candidates.append(_after_the_last_common(starts, told) or start_seq)
    elif known.highest_seq >= unsent:
        candidates.append(present.floor)
    if hidden or (len(known.starts) >= MOST_STARTS and known.starts[0].start not in own):
        # where the other one began is not told any more: none of what waits is sure to be this one's alone
        candidates.append(present.floor)
    return min(candidates)


def _after_the_last_common(starts: Sequence[Start], told: set[str]) -> int | None:
    """The first message of the start that followed the last one that both have lived through."""
    for start, following in zip(reversed(starts[:-1]), reversed(starts[1:]), strict=True):
        if start.start in told:
            return following.first_seq
    return None


def forgotten_from(known: KnownEpoch | None, stand: Stand) -> int | None:
    """From which message on Odoo must be given again what it has forgotten; ``None``: it has forgotten nothing.

    It may always know more than it could tell, because answers get lost, and never less.
    """
    if known is None:
        return 1 if stand.stored or stand.settled else None
    if known.highest_seq < stand.settled or (known.stored is not None and known.stored < stand.stored):
        # below its floor it has all that it ever confirmed; above it its receipts tell a repeat
        return max(known.floor, 1)
    return None
