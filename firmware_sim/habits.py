"""How long a device takes and waits."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """With downloads, in seconds: without a byte on a connection, between attempts at most, and without progress until
    it gives up. ``bytes_per_s`` is the bandwidth; ``None``: as much as there is."""

    read_s: float = 30.0
    longest_pause_s: float = 60.0
    give_up_s: float = 3600.0
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """With updates, in seconds: a boot takes ``boot_s``, new firmware has ``confirm_within_s`` to reach the appliance,
    and the last reports have ``flush_s`` to go out before a restart."""

    boot_s: float = 1.0
    confirm_within_s: float = 120.0
    flush_s: float = 2.0
    patience: Patience = field(default_factory=Patience)
