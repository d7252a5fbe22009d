"""What Odoo knows of an appliance, against what the appliance knows itself: was there a twin, was Odoo restored?

A twin is another copy of the same data folder, or this appliance's own later self before its disk was put back to a
backup. It goes on under the same names ``(epoch, seq)`` with other messages, and Odoo would take one of each pair for a
repeat of the other. Nothing of a start is sent before Odoo has answered its first ``sync``, so either of two copies is
found out in time: the first of them by the start of the second, the second by messages that it has not sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from appliance.contract.sync import MOST_STARTS, KnownEpoch, KnownStart
from appliance.store.standing import Start


class Stand(Protocol):
    """Where the appliance stands with an epoch, as it was reported (:class:`appliance.contract.sync.EpochReport`)."""

    @property
    def first_seq(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    @property
    def floor(self) -> int: ...
    @property
    def settled(self) -> int: ...
    @property
    def stored(self) -> int: ...


def forked_at(
    known: KnownEpoch | None, *, present: Stand, starts: Sequence[Start], unheard: Sequence[Start]
) -> int | None:
    """From which message on the present epoch's names are not this appliance's alone; ``None``: all of them are.

    ``present`` is how the present epoch stands now, ``starts`` are the appliance's own with the present one last,
    ``unheard`` those of which nothing was sent (:attr:`appliance.store.standing.Standing.unheard`).

    Starts form a tree: two copies of a folder have the same ones up to some start, and different ones after it. What
    both have stored before the first of these two began is the same; what came later is not. Where Odoo does not tell
    enough, the earlier place counts: better a message that both send than one that is lost as the other's repeat.
    """
    if known is None:
        return None
    told = {start.start: start for start in known.starts}
    follower: dict[str, Start | None] = {start.start: following for start, following in pairwise(starts)}
    follower[starts[-1].start] = None
    own_sent = 0
    candidates: list[int] = []
    for start in known.starts:
        if start.start in follower:
            following = follower[start.start]
            if following is None or start.highest_seq < following.first_seq:
                own_sent = max(own_sent, start.highest_seq)
            else:
                # somebody still runs under that start and has sent what is not in this folder
                candidates.append(following.first_seq)
    for start in known.starts:
        if start.start not in follower:
            parted = _parted_at(start, told, follower)
            if parted is None:
                candidates.append(present.floor)
            # where this one was the first to send, the names are its own: the other one finds that out in the same way
            elif parted > own_sent:
                candidates.append(parted)
    if known.last_start is not None and known.last_start not in follower and known.last_start not in told:
        candidates.append(present.floor)
    if not candidates and starts[-1].answered and known.highest_seq > present.last_seq:
        candidates.append(present.floor)
    # what was sent under a start of this folder before the next one began was stored before the copies parted
    unexplained = known.highest_seq > own_sent or not _all_told(known, starts)
    if not candidates and not starts[-1].answered and unexplained and known.highest_seq >= unheard[0].first_seq:
        candidates.append(unheard[0].first_seq)
    # what keeps an older epoch was told from a twin's before
    return max(min(candidates), present.first_seq) if candidates else None


def _all_told(known: KnownEpoch, starts: Sequence[Start]) -> bool:
    """Whether no start can have sent anything that this folder does not know of, though Odoo tells the newest only.

    What is left out is older than those told, and was told to a start of this folder that was answered after it.
    """
    told = {start.start for start in known.starts}
    return len(known.starts) < MOST_STARTS or any(start.answered and start.start in told for start in starts)


def taken_over_from(fork: int | None, *, present: Stand, unheard: Sequence[Start]) -> int:
    """From which message on a fenced copy takes a new epoch once it is told to be the one.

    ``fork`` is what :func:`forked_at` made of the refusal.
    """
    unsent = present.last_seq + 1 if unheard[-1].answered else max(unheard[0].first_seq, present.first_seq)
    return unsent if fork is None else min(fork, unsent)


def _parted_at(foreign: KnownStart, told: Mapping[str, KnownStart], follower: Mapping[str, Start | None]) -> int | None:
    """The first message that the folder of a ``foreign`` start and this one do not share; ``None``: nobody knows."""
    for _ in range(len(told)):
        if foreign.previous is None or foreign.previous in follower or foreign.previous not in told:
            break
        foreign = told[foreign.previous]
    if foreign.previous is None or foreign.previous not in follower:
        return None
    following = follower[foreign.previous]
    return foreign.first_seq if following is None else min(foreign.first_seq, following.first_seq)


def forgotten_from(known: KnownEpoch | None, stand: Stand) -> int | None:
    """From which message on Odoo must be given again what it has forgotten; ``None``: it has forgotten nothing.

    It may always know more than it could tell, because answers get lost, and never less.
    """
    if known is None:
        return 1 if stand.stored or stand.settled else None
    if known.behind or known.highest_seq < stand.settled or (known.stored is not None and known.stored < stand.stored):
        # below its floor it has all that it ever confirmed; above it its receipts tell a repeat
        return max(known.floor, 1)
    return None
