"""The few MQTT 3.1.1 packets that load generator and test devices speak, written after the specification alone."""

from __future__ import annotations

from collections.abc import Iterator

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 0x20, 0x30, 0x40, 0x90, 0xD0
PINGREQ_PACKET = b"\xc0\x00"
DISCONNECT_PACKET = b"\xe0\x00"
DUP = 0x08


class WireError(Exception):
    """The server sent what the protocol or the test does not allow."""


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(first: int, body: bytes) -> bytes:
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = rest >> 7, rest & 0x7F
        length.append(digit | (0x80 if rest else 0))
        if not rest:
            return bytes([first]) + bytes(length) + body


def connect_packet(
    client_id: str,
    *,
    username: str | None = None,
    password: str | None = None,
    keep_alive_s: int = 60,
    clean: bool = True,
) -> bytes:
    """CONNECT (§3.1), protocol level 4, no will."""
    flags = (0x02 if clean else 0) | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = _text("MQTT") + bytes([4, flags]) + keep_alive_s.to_bytes(2, "big") + _text(client_id)
    for text in (username, password):
        if text is not None:
            body += _text(text)
    return _packet(0x10, body)


def publish_packet(topic: str, payload: bytes, *, packet_id: int, dup: bool = False) -> bytes:
    """PUBLISH with QoS 1 (§3.3)."""
    return _packet(PUBLISH | 0x02 | (DUP if dup else 0), _text(topic) + packet_id.to_bytes(2, "big") + payload)


def subscribe_packet(topics: list[str], *, packet_id: int = 1, qos: int = 1) -> bytes:
    """SUBSCRIBE (§3.8)."""
    body = packet_id.to_bytes(2, "big") + b"".join(_text(topic) + bytes([qos]) for topic in topics)
    return _packet(0x82, body)


def puback_packet(packet_id: int) -> bytes:
    """PUBACK (§3.4)."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def split(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the complete packets out of ``buffer``: first byte and body of each."""
    while len(buffer) >= 2:
        length, shift, position = 0, 0, 1
        while True:
            if position >= len(buffer):
                return
            byte = buffer[position]
            length |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if not byte & 0x80:
                break
            if shift > 21:
                raise WireError("malformed remaining length")
        if len(buffer) < position + length:
            return
        first, body = buffer[0], bytes(buffer[position : position + length])
        del buffer[: position + length]
        yield first, body


def split_publish(first: int, body: bytes) -> tuple[str, int | None, bytes]:
    """Topic, packet id (``None`` with QoS 0) and payload of a PUBLISH."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:end].decode()
    if not first & 0x06:
        return topic, None, body[end:]
    return topic, int.from_bytes(body[end : end + 2], "big"), body[end + 2 :]
