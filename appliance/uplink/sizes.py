"""How much goes into one batch: as much as Odoo has shown that it takes."""

from __future__ import annotations

from appliance.contract.times import Clock

FORGET_REFUSED_SIZE_S = 600.0
"""After this a size that was refused is tried again: a limit may have been raised."""
LONG_S = 1.0
"""An answer that takes longer keeps new readings waiting: smaller batches then, as far as they are answered sooner."""
LEAST_TIMED_MESSAGES = 20
HELPED = 0.8
"""Half a batch that takes more than this share of the whole one's time shows that the way is long, not the work."""


class BatchSize:
    """Limits that shrink on trouble and grow back on success, up to ``messages`` and ``body_bytes``.

    Below a size that was refused they close in on it by halves of the distance, up to a sixteenth.
    """

    def __init__(self, *, messages: int, body_bytes: int, clock: Clock) -> None:
        self._own_messages = self._most_messages = messages
        self._own_bytes = self._most_bytes = body_bytes
        self._clock = clock
        self._accepted_bytes = 0
        self._refused_bytes: int | None = None
        self._forget_at = 0.0
        self._cut_bytes: int | None = None
        self._long_s = LONG_S
        self._long_until = 0.0
        self._slow: tuple[int, float] | None = None
        self.messages = messages
        self.body_bytes = body_bytes

    @property
    def most_messages(self) -> int:
        """A full batch, when all is well."""
        return self._most_messages

    def limit(self, *, messages: int | None, body_bytes: int | None) -> None:
        """What Odoo says it takes at most; ``None``: it does not say. Never more than the limits of the beginning."""
        self._most_messages = min(self._own_messages, messages or self._own_messages)
        self._most_bytes = min(self._own_bytes, body_bytes or self._own_bytes)
        self.messages = min(self.messages, self._most_messages)
        self.body_bytes = min(self.body_bytes, self._most_bytes)

    def accepted(self, messages: int, body_bytes: int, seconds: float = 0.0) -> None:
        """Odoo took a batch of this size, in so long a time."""
        if self._cut_bytes is not None:
            # a smaller body passed right after one that was cut off: then its size was the reason, not an outage
            if body_bytes < self._cut_bytes:
                self._refuse(self._cut_bytes)
            self._cut_bytes = None
        self._accepted_bytes = max(self._accepted_bytes, body_bytes)
        if body_bytes * 2 > self.body_bytes:
            self.body_bytes = self._larger()
        self._timed(messages, seconds)

    def _timed(self, messages: int, seconds: float) -> None:
        now = self._clock.monotonic()
        if now >= self._long_until:
            self._long_s = LONG_S
        if seconds <= self._long_s:
            if messages * 2 > self.messages and seconds * 2 <= self._long_s:
                self.messages = min(self.messages * 2, self._most_messages)
            return
        if self._slow and messages * 2 <= self._slow[0] + 1 and seconds > self._slow[1] * HELPED:
            self._long_s, self._long_until, self._slow = 2 * seconds, now + FORGET_REFUSED_SIZE_S, None
            return
        self._slow = (messages, seconds)
        if messages > LEAST_TIMED_MESSAGES:
            self.messages = max(messages // 2, LEAST_TIMED_MESSAGES)

    def failed(self, messages: int) -> None:
        """A batch had no usable answer. It may have been too much work: less next time."""
        self._cut_bytes = None
        self.messages = max(messages // 2, 1)

    def too_large(self, body_bytes: int, *, certain: bool) -> None:
        """A body of this size was refused, or (not ``certain``) the connection was cut while it was sent."""
        if certain:
            self._refuse(body_bytes)
        else:
            self._cut_bytes = body_bytes
        if self._accepted_bytes >= body_bytes:
            self._accepted_bytes = 0
        self.body_bytes = min(self.body_bytes, max(body_bytes // 2, self._accepted_bytes, 1))

    def _refuse(self, body_bytes: int) -> None:
        self._refused_bytes = body_bytes
        self._forget_at = self._clock.monotonic() + FORGET_REFUSED_SIZE_S

    def _larger(self) -> int:
        doubled = min(self.body_bytes * 2, self._most_bytes)
        refused = self._refused_bytes
        if refused is None or self._clock.monotonic() >= self._forget_at:
            self._refused_bytes = None
            return doubled
        if self.body_bytes * 16 >= refused * 15:
            return self.body_bytes
        return min(doubled, (self.body_bytes + refused) // 2)
