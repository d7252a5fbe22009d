"""Misbehaviour on request: what a device does wrong, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Kind:
    """``strength`` is what it has unless told otherwise, in ``unit``; a ``chance`` is between 0 and 1."""

    strength: float
    unit: str
    text: str


CHANCE = "chance"
KINDS: Mapping[str, Kind] = {
    "duplicate": Kind(0.2, CHANCE, "a reading is published twice, with the same msg_id"),
    "dup-packet": Kind(0.2, CHANCE, "a packet is sent twice, the second time with DUP, before its PUBACK"),
    "wrong-topic": Kind(0.2, CHANCE, "a message goes to somebody else's topic too"),
    "bad-json": Kind(0.2, CHANCE, "something that is not JSON is published as telemetry too"),
    "oversize": Kind(0.02, CHANCE, "a message of 300,000 bytes is published too"),
    "clock-skew": Kind(3600.0, "seconds", "the device's clock is ahead by so much; below 0 behind"),
    "qos0": Kind(1.0, "always", "everything is published with QoS 0"),
    "silence": Kind(20.0, "mean seconds", "after a while a connection falls silent, and stays open"),
    "slow-reading": Kind(2.0, "seconds", "one packet is read in so much time"),
    "flapping": Kind(1.0, "mean seconds", "connections are dropped after a while, and made anew at once"),
    "clone": Kind(2.0, "seconds", "a second box with the same credentials, which comes back after so long"),
    "no-puback": Kind(1.0, CHANCE, "a command is neither acknowledged nor carried out"),
    "no-answer": Kind(1.0, CHANCE, "a command is carried out and not answered"),
    "late-answer": Kind(20.0, "seconds", "a command is answered so much later"),
    "twice-answer": Kind(1.0, CHANCE, "a command is answered twice"),
}


class Misbehaviour:
    """What one device does wrong now; may be changed while it runs."""

    def __init__(self, *, random: Random, strengths: Mapping[str, float] | None = None) -> None:
        self._random = random
        self._strengths: dict[str, float] = {}
        self.on_change: Callable[[], None] = lambda: None
        for kind, strength in (strengths or {}).items():
            self.set(kind, strength)

    def set(self, kind: str, strength: float | None = None) -> None:
        """Do this wrong from now on; ``ValueError`` if there is no such thing, or not so much of it."""
        if kind not in KINDS:
            raise ValueError(f"no misbehaviour is called {kind!r}; there are {', '.join(KINDS)}")
        known = KINDS[kind]
        value = known.strength if strength is None else strength
        if not abs(value) < 1e9 or (known.unit == CHANCE and not 0 <= value <= 1):
            raise ValueError(f"{kind} takes a number, {known.unit}")
        if value <= 0 and known.unit != CHANCE and kind != "clock-skew":
            raise ValueError(f"{kind} takes a number above 0")
        self._strengths[kind] = value
        self.on_change()

    def clear(self, kind: str | None = None) -> None:
        """Behave again, in one respect or in all."""
        if kind is None:
            self._strengths.clear()
        else:
            self._strengths.pop(kind, None)
        self.on_change()

    def get(self, kind: str) -> float | None:
        """How much of it; ``None``: not at all."""
        return self._strengths.get(kind)

    def now(self, kind: str) -> bool:
        """Whether it happens this time, for kinds that are a chance."""
        chance = self._strengths.get(kind)
        return chance is not None and self._random.random() < chance

    def after_s(self, kind: str) -> float | None:
        """When it happens next, for kinds that have a mean time; ``None``: never."""
        mean_s = self._strengths.get(kind)
        return None if mean_s is None else self._random.expovariate(1 / mean_s)

    def as_dict(self) -> dict[str, float]:
        """Strengths by kind."""
        return dict(self._strengths)


@dataclass(frozen=True, slots=True)
class Request:
    """Misbehaviour of a ``share`` of the fleet."""

    kind: str
    share: float = 1.0
    strength: float | None = None


def parse(text: str) -> Request:
    """``NAME[=SHARE][:STRENGTH]`` of a command line, such as ``bad-json=0.1:0.5``; ``ValueError``."""
    head, colon, strength = text.partition(":")
    kind, equals, share = head.partition("=")
    try:
        request = Request(kind, float(share) if equals else 1.0, float(strength) if colon else None)
    except ValueError:
        raise ValueError(f"{text!r} is not NAME[=SHARE][:STRENGTH] with numbers") from None
    if not 0 < request.share <= 1:
        raise ValueError(f"{text!r}: a share is above 0 and at most 1")
    Misbehaviour(random=Random(0)).set(kind, request.strength)
    return request


def spread(requests: Iterable[Request], devices: Sequence[str], random: Random) -> dict[str, dict[str, float]]:
    """Which device does what wrong. Each request takes its share of the fleet, one device at least, by chance."""
    chosen: dict[str, dict[str, float]] = {device: {} for device in devices}
    for request in requests:
        strength = KINDS[request.kind].strength if request.strength is None else request.strength
        for device in random.sample(list(devices), max(1, round(request.share * len(devices)))):
            chosen[device][request.kind] = strength
    return chosen
