"""What machines measure: values that wander and are noisy, counters, states and alarms; reproducible by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Protocol


class Signal(Protocol):
    """A machine's sensors."""

    def sample(self) -> dict[str, Any]:
        """One measurement as a JSON object."""


class Wandering:
    """A value that drifts back to where a healthy machine has it, with noise of the sensor on top.

    ``pull`` is the part of the distance that it comes closer in a step; ``drift``, ``noise``: standard deviations.
    """

    def __init__(self, random: Random, *, at: float, drift: float, noise: float, pull: float = 0.02) -> None:
        self._random = random
        self._drift = drift
        self._noise = noise
        self._pull = pull
        self.value = at + random.gauss(0, 5 * drift)

    def step(self, towards: float) -> float:
        """The next value as the sensor shows it."""
        self.value += (towards - self.value) * self._pull + self._random.gauss(0, self._drift)
        return self.value + self._random.gauss(0, self._noise)


class Machine:
    """Runs, pauses, breaks down and is repaired: the chances of a change in one step."""

    CHANGES: Mapping[str, tuple[tuple[str, float], ...]] = {
        "running": (("idle", 0.02), ("fault", 0.002)),
        "idle": (("running", 0.1),),
        "fault": (("idle", 0.05),),
    }

    def __init__(self, random: Random) -> None:
        self._random = random
        self.state = "running"

    def step(self) -> str:
        """The state from now on."""
        chance = self._random.random()
        for state, share in self.CHANGES[self.state]:
            if chance < share:
                self.state = state
                break
            chance -= share
        return self.state


class Alarm:
    """Set above one limit, gone below another, so that it does not flicker."""

    def __init__(self, *, above: float, below: float) -> None:
        self._above = above
        self._below = below
        self.is_set = False

    def step(self, value: float) -> bool:
        """Whether it is set at this value."""
        self.is_set = value > (self._below if self.is_set else self._above)
        return self.is_set


class PressSignal:
    """Temperature (°C), pressure (bar), strokes, state and alarm of a press."""

    def __init__(self, *, random: Random) -> None:
        self._temperature = Wandering(random, at=65, drift=0.3, noise=0.05, pull=0.01)
        self._pressure = Wandering(random, at=5, drift=0.02, noise=0.005)
        self._machine = Machine(random)
        self._alarm = Alarm(above=69, below=67)
        self._strokes = random.randrange(100_000)

    def sample(self) -> dict[str, Any]:
        """One measurement; a press that stands still cools down."""
        state = self._machine.step()
        self._strokes += state == "running"
        temperature = self._temperature.step({"running": 65, "idle": 45, "fault": 80}[state])
        return {
            "temperature": round(temperature, 2),
            "pressure": round(self._pressure.step(5 if state == "running" else 0.5), 3),
            "strokes": self._strokes,
            "state": state,
            "alarm": self._alarm.step(temperature),
        }


class OvenSignal:
    """Two zones (°C), set point, energy (kWh) and door of an oven that is heated by a programme."""

    PROGRAMME = (180.0, 220.0, 220.0, 90.0)
    STEPS_EACH = 300

    def __init__(self, *, random: Random) -> None:
        self._random = random
        self._zones = [Wandering(random, at=180, drift=0.4, noise=0.2, pull=0.03) for _ in range(2)]
        self._energy_kwh = random.uniform(0, 5000)
        self._steps = random.randrange(self.STEPS_EACH)

    def sample(self) -> dict[str, Any]:
        """One measurement."""
        self._steps += 1
        setpoint = self.PROGRAMME[self._steps // self.STEPS_EACH % len(self.PROGRAMME)]
        zones = [zone.step(setpoint) for zone in self._zones]
        self._energy_kwh += max(0.0, setpoint - zones[0]) * 0.002 + 0.01
        return {
            "zone_1": round(zones[0], 1),
            "zone_2": round(zones[1], 1),
            "setpoint": setpoint,
            "energy_kwh": round(self._energy_kwh, 3),
            "door_open": self._random.random() < 0.01,
        }


class PumpSignal:
    """Flow (l/min), vibration (mm/s), running hours and alarms of a pump whose bearing wears."""

    def __init__(self, *, random: Random) -> None:
        self._flow = Wandering(random, at=120, drift=1.0, noise=0.5, pull=0.1)
        self._vibration = Wandering(random, at=1.2, drift=0.02, noise=0.05)
        self._machine = Machine(random)
        self._alarm = Alarm(above=4.5, below=3.5)
        self._wear = random.uniform(0, 2.5)
        self._seconds = random.randrange(10_000_000)

    def sample(self) -> dict[str, Any]:
        """One measurement."""
        running = self._machine.step() == "running"
        self._seconds += running
        self._wear = 0.0 if self._machine.state == "fault" else self._wear + 0.01 * running
        vibration = max(0.0, self._vibration.step(1.2 if running else 0.1) + self._wear * running)
        alarms = [name for name, is_set in (("bearing", self._alarm.step(vibration)),) if is_set]
        return {
            "flow": round(max(0.0, self._flow.step(120 if running else 0)), 1),
            "vibration": round(vibration, 2),
            "hours": round(self._seconds / 3600, 2),
            "state": self._machine.state,
            "alarms": alarms,
        }


SIGNALS: Mapping[str, Callable[[Random], Signal]] = {
    "press": lambda random: PressSignal(random=random),
    "oven": lambda random: OvenSignal(random=random),
    "pump": lambda random: PumpSignal(random=random),
}
"""By the name of a machine."""
MIXED = "mixed"


def signal(name: str, random: Random) -> Signal:
    """The sensors of a machine; ``mixed``: of any. ``ValueError`` if there is none of this name."""
    if name == MIXED:
        name = random.choice(sorted(SIGNALS))
    if name not in SIGNALS:
        raise ValueError(f"no machine is called {name!r}; there are {', '.join(SIGNALS)} and {MIXED}")
    return SIGNALS[name](random)
