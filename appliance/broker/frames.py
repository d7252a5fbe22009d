"""MQTT 3.1.1 packets: reading what clients send, writing what they get. No sockets here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from appliance.contract.topics import is_topic_filter, is_topic_name

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 0x80, 0x90, 0xA0, 0xB0, 0xC0, 0xD0, 0xE0

_Item = TypeVar("_Item")

ACCEPTED, BAD_PROTOCOL, BAD_CLIENT_ID, UNAVAILABLE, BAD_CREDENTIALS, NOT_AUTHORIZED = range(6)
REFUSED_FILTER = 0x80

PINGRESP_FRAME = b"\xd0\x00"
UNSUPPORTED_MQTT5 = b"\x20\x03\x00\x84\x00"
"""CONNACK as MQTT 5 clients read it: unsupported protocol version."""
UNSUPPORTED_LEVEL = b"\x20\x02\x00\x01"
PUBACK_HEAD = b"\x40\x02"
PUBREC_HEAD = b"\x50\x02"
PUBREL_HEAD = b"\x62\x02"
PUBCOMP_HEAD = b"\x70\x02"
MOST_FILTERS = 64
"""In one SUBSCRIBE or UNSUBSCRIBE."""


class ProtocolError(Exception):
    """The client broke the specification; the connection closes. ``reply`` is written first, where one is due."""

    def __init__(self, reason: str, reply: bytes = b"") -> None:
        super().__init__(reason)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Will:
    """What to publish when the connection ends without DISCONNECT."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Connect:
    """A CONNECT packet; ``password`` never shows."""

    level: int
    client_id: str
    clean_session: bool
    keep_alive_s: int
    username: str | None
    password: bytes | None = field(repr=False)
    will: Will | None


_EMPTY = {PINGREQ, DISCONNECT}
_FLAGS = {PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2}


class _Reader:
    """Fields of one packet's body, with the end checked at every step."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data = data
        self.position = start
        self.end = end

    def byte(self) -> int:
        position = self.position
        if position >= self.end:
            raise ProtocolError("a packet ends in the middle of a field")
        self.position = position + 1
        return self.data[position]

    def short(self) -> int:
        return self.byte() << 8 | self.byte()

    def block(self) -> bytes:
        length = self.short()
        start = self.position
        if start + length > self.end:
            raise ProtocolError("a packet ends in the middle of a field")
        self.position = start + length
        return self.data[start : start + length]

    def text(self) -> str:
        return decode_text(self.block())

    def finish(self) -> None:
        if self.position != self.end:
            raise ProtocolError("a packet has bytes behind its last field")

    @property
    def more(self) -> bool:
        return self.position < self.end


def decode_text(block: bytes) -> str:
    """UTF-8 as MQTT wants it: valid, no U+0000 (§1.5.3)."""
    try:
        text = block.decode()
    except UnicodeDecodeError:
        raise ProtocolError("a text is no valid UTF-8") from None
    if "\0" in text:
        raise ProtocolError("a text holds U+0000")
    return text


def parse_connect(data: bytes, start: int, end: int) -> Connect:
    """Read the body of CONNECT (§3.1). :class:`ProtocolError` carries the CONNACK where the specification wants one."""
    reader = _Reader(data, start, end)
    name, level = reader.block(), reader.byte()
    if name == b"MQTT" and level == 5:
        raise ProtocolError("MQTT 5 is not supported: configure the client for 3.1.1", UNSUPPORTED_MQTT5)
    if (name, level) not in ((b"MQTT", 4), (b"MQIsdp", 3)):
        if name in (b"MQTT", b"MQIsdp"):
            raise ProtocolError(f"protocol level {level} is not supported", UNSUPPORTED_LEVEL)
        raise ProtocolError("not an MQTT client")
    flags = reader.byte()
    if flags & 0x01:
        raise ProtocolError("the reserved flag of CONNECT is set")
    keep_alive_s = reader.short()
    client_id = reader.text()
    will = _will(reader, flags)
    username = reader.text() if flags & 0x80 else None
    if flags & 0x40 and username is None:
        raise ProtocolError("a password without a user name")
    password = reader.block() if flags & 0x40 else None
    reader.finish()
    return Connect(level, client_id, bool(flags & 0x02), keep_alive_s, username, password, will)


def _will(reader: _Reader, flags: int) -> Will | None:
    qos = flags >> 3 & 3
    if not flags & 0x04:
        if flags & 0x38:
            raise ProtocolError("will flags without a will")
        return None
    if qos == 3:
        raise ProtocolError("a will with QoS 3")
    topic = reader.text()
    if not is_topic_name(topic):
        raise ProtocolError("a will whose topic is no valid name")
    return Will(topic, reader.block(), qos, bool(flags & 0x20))


def parse_subscribe(data: bytes, start: int, end: int) -> tuple[int, list[tuple[str, int]]]:
    """Packet id and filters with their wanted QoS (§3.8)."""
    reader = _Reader(data, start, end)
    packet_id = _packet_id(reader)
    filters: list[tuple[str, int]] = []
    while reader.more:
        topic_filter, qos = _filter(reader), reader.byte()
        if qos > 2:
            raise ProtocolError("SUBSCRIBE wants a QoS above 2")
        _add(filters, (topic_filter, qos))
    return packet_id, _some(filters)


def parse_unsubscribe(data: bytes, start: int, end: int) -> tuple[int, list[str]]:
    """Packet id and filters (§3.10)."""
    reader = _Reader(data, start, end)
    packet_id = _packet_id(reader)
    filters: list[str] = []
    while reader.more:
        _add(filters, _filter(reader))
    return packet_id, _some(filters)


def _add(items: list[_Item], item: _Item) -> None:
    # not after the last: a packet can hold so many that reading them all would take a while
    if len(items) >= MOST_FILTERS:
        raise ProtocolError(f"more than {MOST_FILTERS} filters in one packet")
    items.append(item)


def _some(items: list[_Item]) -> list[_Item]:
    if not items:
        raise ProtocolError("SUBSCRIBE or UNSUBSCRIBE without a filter")
    return items


def _filter(reader: _Reader) -> str:
    topic_filter = reader.text()
    if not is_topic_filter(topic_filter):
        raise ProtocolError("a malformed topic filter")
    return topic_filter


def _packet_id(reader: _Reader) -> int:
    packet_id = reader.short()
    if not packet_id:
        raise ProtocolError("packet id 0")
    return packet_id


def parse_packet_id(data: bytes, start: int, end: int) -> int:
    """The packet id of PUBACK, PUBREC, PUBREL or PUBCOMP."""
    if end - start != 2:
        raise ProtocolError("an acknowledgement of a wrong length")
    packet_id = data[start] << 8 | data[start + 1]
    if not packet_id:
        raise ProtocolError("packet id 0")
    return packet_id


def check_flags(header: int, start: int, end: int) -> int:
    """The packet type, with the low four bits and an empty body checked where they are fixed (§2.2.2)."""
    kind = header & 0xF0
    if header & 0x0F != _FLAGS.get(kind, 0):
        raise ProtocolError("reserved flags of a packet are wrong")
    if kind in _EMPTY and end != start:
        raise ProtocolError("a packet that has no body has one")
    return kind


def parse_publish(header: int, data: bytes, start: int, end: int) -> tuple[str, bytes, bytes]:
    """Topic, payload and the acknowledgement that is due (§3.3); for everything but the hot path."""
    qos = header >> 1 & 3
    name_start = start + 2
    if end < name_start or qos == 3 or (header & 8 and not qos):
        raise ProtocolError("a malformed PUBLISH")
    name_end = name_start + (data[start] << 8 | data[start + 1])
    body = name_end + 2 if qos else name_end
    if body > end or (qos and data[name_end:body] == b"\0\0"):
        raise ProtocolError("a malformed PUBLISH")
    topic = decode_text(data[name_start:name_end])
    if not is_topic_name(topic):
        raise ProtocolError("a PUBLISH whose topic is no valid name")
    head = (b"", PUBACK_HEAD, PUBREC_HEAD)[qos]
    return topic, data[body:end], head + data[name_end:body]


def split(data: bytes) -> Iterator[tuple[int, int, int]]:
    """First byte, start and end of the body of each packet in ``data``, which holds whole and proper packets only."""
    position = 0
    while position < len(data):
        header, length, shift = data[position], 0, 0
        more = True
        while more:
            position += 1
            length |= (data[position] & 0x7F) << shift
            shift += 7
            more = data[position] > 0x7F
        start, position = position + 1, position + 1 + length
        yield header, start, position


# --- what clients get ---------------------------------------------------------------------------------------------


def remaining_length(length: int) -> bytes:
    """The variable length field (§2.2.3); at most 268,435,455."""
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | 0x80 if length else digit)
        if not length:
            return bytes(encoded)


def connack(code: int, *, session_present: bool = False) -> bytes:
    """CONNACK (§3.2)."""
    return bytes((CONNACK, 2, session_present and code == ACCEPTED, code))


def publish(
    topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 0, dup: bool = False, retain: bool = False
) -> bytes:
    """PUBLISH (§3.3)."""
    name = topic.encode()
    head = len(name).to_bytes(2, "big") + name + (packet_id.to_bytes(2, "big") if qos else b"")
    first = PUBLISH | dup << 3 | qos << 1 | retain
    return bytes((first,)) + remaining_length(len(head) + len(payload)) + head + payload


def suback(packet_id: int, codes: list[int]) -> bytes:
    """SUBACK (§3.9)."""
    return bytes((SUBACK,)) + remaining_length(2 + len(codes)) + packet_id.to_bytes(2, "big") + bytes(codes)


def unsuback(packet_id: int) -> bytes:
    """UNSUBACK (§3.11)."""
    return bytes((UNSUBACK, 2)) + packet_id.to_bytes(2, "big")
