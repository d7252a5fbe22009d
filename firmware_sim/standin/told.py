"""Whether this database knows less of an appliance's messages than it once confirmed: it was restored from a backup."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_sim.standin.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an appliance says of one epoch, in a batch or a sync."""

    floor: int
    """The lowest ``seq`` that it may still send."""
    settled: int
    """The highest ``seq`` that it was told is here."""
    stored: int
    """How many it was told are here."""
    below: int
    """How many of these are below its floor."""


def knows_less(state: State, gateway: str, epoch: str, told: Told) -> bool:
    """Whether it does; to be asked before the floor is moved.

    The highest alone does not show it: with two lanes it may have been there when the backup was made, and others
    below it not. Nor does the number of all: what is here though the answer was lost makes up for what is not. Below
    its floor the appliance was told of all that is here, so there the same messages are counted on both sides.
    """
    row = state.row("SELECT highest, stored, below FROM epochs WHERE gateway = ? AND epoch = ?", gateway, epoch)
    highest, stored, below = row or (0, 0, 0)
    if told.settled > highest or told.stored > stored:
        return True
    if told.below <= below:
        return False
    (receipts,) = state.rows(
        "SELECT count(*) FROM receipts WHERE gateway = ? AND epoch = ? AND seq < ?", gateway, epoch, told.floor
    )[0]
    return bool(told.below > below + receipts)
