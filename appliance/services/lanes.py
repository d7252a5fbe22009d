"""The open commands in memory: a lane for each device that keeps their order, and one heap of deadlines for all.

Nothing is decided or stored here. Payloads stay on disk until they are sent.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator

from appliance.store.outbox import OutboxRow

SPARE_ALARMS = 1000


class Entry:
    """One open command. ``row`` is as last committed, ``None`` until it is stored."""

    __slots__ = ("alarm_ms", "command_id", "device_id", "early_ack", "on_wire", "payload_bytes", "row")

    def __init__(self, command_id: str, device_id: str, payload_bytes: int) -> None:
        self.command_id = command_id
        self.device_id = device_id
        self.payload_bytes = payload_bytes
        self.row: OutboxRow | None = None
        self.on_wire = False
        """Its bytes were written to the present connection, and no PUBACK has come."""
        self.early_ack = False
        """It was acknowledged while it was being written."""
        self.alarm_ms: int | None = None
        """The earliest alarm in the heap."""


class Lane:
    """One device's commands: ``waiting`` to be written, in order, and the one in ``flight``."""

    __slots__ = ("device_id", "flight", "open_count", "waiting")

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self.waiting: deque[Entry] = deque()
        self.flight: Entry | None = None
        """Claimed or written; until PUBACK or the end of the connection, whatever becomes of the command."""
        self.open_count = 0


class OpenCommands:
    """All open commands by id, their lanes and deadlines. Times are of the steady clock, in milliseconds.

    ``sooner`` is called with the time of an alarm that comes before all others.
    """

    def __init__(self, *, sooner: Callable[[int], None]) -> None:
        self._sooner = sooner
        self.entries: dict[str, Entry] = {}
        self.lanes: dict[str, Lane] = {}
        self.payload_bytes = 0
        self._alarms: list[tuple[int, int, Entry]] = []
        self._alarm_count = 0

    def add(self, command_id: str, device_id: str, payload_bytes: int) -> Entry:
        """A new command at the end of its lane."""
        entry = Entry(command_id, device_id, payload_bytes)
        self._keep(entry).waiting.append(entry)
        return entry

    def restore(self, row: OutboxRow) -> Entry:
        """A command from before a restart; in the order of their positions."""
        entry = Entry(row.command_id, row.device, row.payload_bytes)
        lane = self._keep(entry)
        if row.undelivered:
            lane.waiting.append(entry)
        self.note(entry, row)
        return entry

    def note(self, entry: Entry, row: OutboxRow) -> None:
        """What was committed for a command."""
        entry.row = row
        lane = self.lanes.get(entry.device_id)
        if lane is not None and not row.undelivered and entry in lane.waiting:
            lane.waiting.remove(entry)
        if row.open:
            self._keep(entry)
            self._arm(entry, row.deadline_ms)
        else:
            self.drop(entry)

    def drop(self, entry: Entry) -> None:
        """Forget a command: it is settled, or was never stored."""
        lane = self._lane(entry.device_id)
        if entry in lane.waiting:
            lane.waiting.remove(entry)
        if self.entries.get(entry.command_id) is entry:
            del self.entries[entry.command_id]
            self.payload_bytes -= entry.payload_bytes
            lane.open_count -= 1
        self.tidy(lane)

    def tidy(self, lane: Lane) -> None:
        """Forget a lane that holds nothing."""
        if not lane.open_count and lane.flight is None and not lane.waiting:
            self.lanes.pop(lane.device_id, None)

    def due(self, now_ms: int, limit: int) -> list[Entry]:
        """Open commands whose deadline is over, at most ``limit``; each is named once, until it is noted again."""
        return [entry for _, entry in zip(range(limit), self._due(now_ms), strict=False)]

    def next_alarm_ms(self) -> int | None:
        """When :meth:`due` will have something, at the earliest."""
        return self._alarms[0][0] if self._alarms else None

    def _due(self, now_ms: int) -> Iterator[Entry]:
        alarms = self._alarms
        while alarms and alarms[0][0] <= now_ms:
            alarm_ms, _, entry = heapq.heappop(alarms)
            if entry.alarm_ms == alarm_ms:
                entry.alarm_ms = None
                if entry.row is not None and entry.row.open:
                    if entry.row.deadline_ms > now_ms:
                        self._arm(entry, entry.row.deadline_ms)
                    else:
                        yield entry

    def _lane(self, device_id: str) -> Lane:
        lane = self.lanes.get(device_id)
        if lane is None:
            lane = self.lanes[device_id] = Lane(device_id)
        return lane

    def _keep(self, entry: Entry) -> Lane:
        lane = self._lane(entry.device_id)
        if entry.command_id not in self.entries:
            self.entries[entry.command_id] = entry
            self.payload_bytes += entry.payload_bytes
            lane.open_count += 1
        return lane

    def _arm(self, entry: Entry, deadline_ms: int) -> None:
        # a deadline that moves away leaves its alarm, which is set anew when it rings
        if entry.alarm_ms is None or deadline_ms < entry.alarm_ms:
            entry.alarm_ms = deadline_ms
            self._alarm_count += 1
            heapq.heappush(self._alarms, (deadline_ms, self._alarm_count, entry))
            if self._alarms[0][2] is entry:
                self._sooner(deadline_ms)
            if len(self._alarms) > 2 * len(self.entries) + SPARE_ALARMS:
                self._drop_stale_alarms()

    def _drop_stale_alarms(self) -> None:
        self._alarms = [
            alarm
            for alarm in self._alarms
            if alarm[2].alarm_ms == alarm[0] and alarm[2].row is not None and alarm[2].row.open
        ]
        heapq.heapify(self._alarms)
