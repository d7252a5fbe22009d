"""What a device has to say and has not been acknowledged for: bounded, in order, sent again on the next connection."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Outgoing:
    """One message; ``msg_id`` only for a reading. ``sent_at`` is the monotonic time of its last transmission.

    ``topic`` is a topic's name in the configuration, such as ``telemetry``, or a topic. ``odd`` names the misbehaviour
    that made it, ``report`` is the number of an update's report.
    """

    topic: str
    payload: bytes
    msg_id: str | None = None
    odd: str | None = None
    report: int | None = None
    transmissions: int = 0
    sent_at: float = 0.0

    @property
    def is_urgent(self) -> bool:
        """Whether it goes ahead of readings."""
        return self.msg_id is None and self.odd is None


class SendQueue:
    """At most ``limit`` messages wait and at most ``window`` are in flight. Answers go ahead of readings."""

    def __init__(self, *, window: int = 1, limit: int = 1000) -> None:
        if not 1 <= window <= 20:
            raise ValueError("the in-flight window is 1 to 20")
        self._window = window
        self._limit = limit
        self._readings: deque[Outgoing] = deque()
        self._answers: deque[Outgoing] = deque()
        self._in_flight: dict[int, Outgoing] = {}

    def __len__(self) -> int:
        return len(self._readings) + len(self._answers) + len(self._in_flight)

    @property
    def has_room(self) -> bool:
        """Whether a message put in now would go out at once."""
        return not self._readings and not self._answers and len(self._in_flight) < self._window

    def put(self, message: Outgoing) -> Outgoing | None:
        """Add one; a full queue gives up its oldest message of the same sort, which is returned."""
        queue = self._answers if message.is_urgent else self._readings
        dropped = queue.popleft() if len(queue) >= self._limit else None
        queue.append(message)
        return dropped

    def take(self) -> Outgoing | None:
        """The next to send, if the window allows; hand it to :meth:`sent` or it is lost."""
        if len(self._in_flight) >= self._window:
            return None
        if self._answers:
            return self._answers.popleft()
        return self._readings.popleft() if self._readings else None

    def sent(self, mid: int, message: Outgoing, now: float) -> None:
        """It is on its way as packet ``mid``."""
        message.transmissions += 1
        message.sent_at = now
        self._in_flight[mid] = message

    def acknowledged(self, mid: int) -> Outgoing | None:
        """PUBACK for ``mid``: the message it settles, if there is one."""
        return self._in_flight.pop(mid, None)

    def connection_lost(self) -> None:
        """What was not acknowledged goes to the front again, in its order; odd things are said once."""
        for message in reversed(self._in_flight.values()):
            if message.odd is None:
                (self._answers if message.is_urgent else self._readings).appendleft(message)
        self._in_flight.clear()
