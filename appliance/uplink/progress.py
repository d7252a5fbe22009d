"""Since when a task has been in one step of its work."""

from __future__ import annotations

from appliance.contract.times import Clock


class Progress:
    """Its task says when it begins a step, and when it sleeps until there is something to do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None

    def step(self) -> None:
        """Another step begins."""
        self._since = self._clock.monotonic()

    def sleep(self) -> None:
        """There is nothing to do, or it must not be done now: that may last, and nothing is stuck."""
        self._since = None

    @property
    def in_step_s(self) -> float:
        """For how many seconds the present step has lasted; 0 while it sleeps."""
        return 0.0 if self._since is None else self._clock.monotonic() - self._since
