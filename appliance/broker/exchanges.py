"""QoS 2 from a device: which of its messages were taken and not released yet (MQTT 3.1.1, §4.3.3)."""

from __future__ import annotations

from hashlib import blake2b

from appliance.broker.frames import ProtocolError
from appliance.store.packet_ids import PacketIds

MOST_QOS2_OPEN = 100
"""QoS 2 messages of one client without PUBREL."""


class Exchanges:
    """Of one session. With ``store``, those of messages that are stored are on disk, each in the transaction of its
    message; without, the session ends with its connection, and so do they."""

    __slots__ = ("_device_id", "_found", "_open", "_store")

    def __init__(self, device_id: str, store: PacketIds | None) -> None:
        self._device_id = device_id
        self._store = store
        # those from before a restart count only for who sends the same again: the client was told that its session
        # is not present, so it may have begun anew and use the packet id for something else
        self._found: dict[bytes, bytes] = store.found(device_id) if store is not None else {}
        self._open: dict[bytes, bool] = dict.fromkeys(self._found, True)
        """By packet id: whether it is on disk, or on its way there."""

    def begin(self, receipt: object, packet_id: bytes, message: bytes, *, dup: bool) -> bool:
        """A PUBLISH that will be stored with ``receipt``; ``message`` is its topic and payload.

        ``False`` if it repeats one that has not been released, and must not be stored again. :class:`ProtocolError`
        if too many are open.
        """
        store = self._store
        digest = b"" if store is None else blake2b(message, digest_size=8).digest()
        if packet_id in self._open:
            found = self._found.pop(packet_id, None)
            if found is None or (dup and found == digest):
                return False
            self._leave(packet_id)  # its row is replaced in the transaction of the message that takes its place
        self._check_room()
        if store is not None:
            if store.full:
                raise ProtocolError("too many QoS 2 messages of all devices without PUBREL")
            store.open(receipt, self._device_id, packet_id, digest)
        self._open[packet_id] = store is not None
        return True

    def begin_unstored(self, packet_id: bytes) -> bool:
        """The same for a PUBLISH that is passed on and not stored."""
        if packet_id in self._open and packet_id not in self._found:
            return False
        self._check_room()
        # one that was found is not released by the way: whoever forgot it may still remember it
        self._open.setdefault(packet_id, False)
        return True

    def undo(self, receipt: object, packet_id: bytes) -> None:
        """It could not be stored: what the device sends again is no repeat."""
        if self._open.pop(packet_id, False) and self._store is not None:
            self._store.undo(receipt)

    def release(self, receipt: object, packet_id: bytes) -> bool:
        """PUBREL. ``True``: PUBCOMP may go out at once; ``False``: ``receipt`` comes back when it may."""
        on_disk = self._open.pop(packet_id, None)
        self._found.pop(packet_id, None)
        if self._store is None or on_disk is False:
            return True
        # also where it is not known: an earlier PUBREL may be on its way to the disk yet
        self._store.release(receipt, self._device_id, packet_id, known=bool(on_disk))
        return False

    def end(self) -> None:
        """The session has ended."""
        if self._store is not None:
            self._store.clear(self._device_id, sum(self._open.values()))
        self._open.clear()
        self._found.clear()

    def _check_room(self) -> None:
        if len(self._open) >= MOST_QOS2_OPEN:
            raise ProtocolError(f"more than {MOST_QOS2_OPEN} QoS 2 messages without PUBREL")

    def _leave(self, packet_id: bytes) -> None:
        if self._open.pop(packet_id) and self._store is not None:
            self._store.total -= 1
