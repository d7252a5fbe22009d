"""Packets that break MQTT 3.1.1, each named after what it breaks; whoever sends one is closed (MQTT-4.8.0-1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from appliance.broker import frames
from tests.broker.rig import connect, packet, text

ID = b"\0\x07"
LONGEST = b"\xff\xff\xff\x7f"
"""The largest remaining length there is: 256 MiB."""
REFUSED_LEVEL, REFUSED_ID = b"\x20\x02\x00\x01", b"\x20\x02\x00\x02"

BAD_TEXTS = {
    "MQTT-1.5.3-1, no UTF-8": b"a\xff\xfe",
    "MQTT-1.5.3-1, a surrogate": b"a\xed\xa0\x80",
    "MQTT-1.5.3-1, an overlong form": b"a\xc0\xaf",
    "MQTT-1.5.3-1, cut off in a character": b"a\xe2\x82",
    "MQTT-1.5.3-1, beyond U+10FFFF": b"a\xf4\x90\x80\x80",
    "MQTT-1.5.3-2, U+0000": b"a\0b",
}
BAD_FILTERS = {
    "MQTT-4.7.3-1, empty": b"",
    "MQTT-4.7.1-2, # before the end": b"a/#/b",
    "MQTT-4.7.1-2, # in a level": b"a/b#",
    "MQTT-4.7.1-3, + in a level": b"a/b+",
    "MQTT-4.7.1-3, + before a name": b"+a",
    **BAD_TEXTS,
}
BAD_TOPICS = {
    "MQTT-4.7.3-1, empty": b"",
    "MQTT-3.3.2-2, a wildcard +": b"telemetry/+/data",
    "MQTT-3.3.2-2, a wildcard #": b"telemetry/#",
    **BAD_TEXTS,
}
FIXED_FLAGS = {
    frames.CONNECT: 0,
    frames.PUBACK: 0,
    frames.PUBREC: 0,
    frames.PUBREL: 2,
    frames.PUBCOMP: 0,
    frames.SUBSCRIBE: 2,
    frames.UNSUBSCRIBE: 2,
    frames.PINGREQ: 0,
    frames.DISCONNECT: 0,
}
NAMES = {
    getattr(frames, name): name
    for name in (
        *("CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK"),
        *("UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT"),
    )
}


class Case(NamedTuple):
    """What is sent after the login, or in its place; ``answer`` is what may come before the connection closes."""

    name: str
    sent: bytes
    answer: bytes = b""


def valid(topic: str) -> dict[int, bytes]:
    """One proper packet of each type that a client may send, none of which has a shorter proper form."""
    return {
        frames.CONNECT: connect("press-07", "press-07", b"secret", will=(topic, b"gone")),
        frames.PUBLISH: frames.publish(topic, b"", qos=1, packet_id=7),
        frames.PUBACK: packet(0x40, ID),
        frames.PUBREC: packet(0x50, ID),
        frames.PUBREL: packet(0x62, ID),
        frames.PUBCOMP: packet(0x70, ID),
        frames.SUBSCRIBE: packet(0x82, ID + text("a/+/#") + b"\x01"),
        frames.UNSUBSCRIBE: packet(0xA2, ID + text("a/+/#")),
        frames.PINGREQ: packet(0xC0, b""),
        frames.DISCONNECT: packet(0xE0, b""),
    }


def cut_off(topic: str) -> Iterator[Case]:
    """Every packet, cut off behind each of its bytes; the client closes its side then."""
    for kind, whole in valid(topic).items():
        for length in range(1, len(whole)):
            yield Case(f"{NAMES[kind]} of {len(whole)} bytes, of which {length} come", whole[:length])


def framing() -> Iterator[Case]:
    """What is wrong whatever the type: the remaining length."""
    for kind in range(0, 256, 16):
        first = bytes([kind | FIXED_FLAGS.get(kind, 0)])
        name = NAMES.get(kind, f"type {kind >> 4}")
        yield Case(f"§2.2.3, {name}: a remaining length of five bytes", first + b"\xff\xff\xff\xff\x01")
        yield Case(f"§2.2.3, {name}: a remaining length that does not end", first + b"\x80\x80\x80\x80")
        yield Case(f"{name}: larger than anything that is taken", first + LONGEST + b"x")


def shortened(kind: int, whole: bytes) -> Iterator[Case]:
    """A packet whose last bytes are missing while its remaining length fits; and one with a byte too many."""
    start = 2
    body = whole[start:]
    for length in range(len(body)):
        yield Case(f"{NAMES[kind]}: a body of {length} bytes", packet(whole[0], body[:length]))
    if kind != frames.PUBLISH:  # there it is a payload
        yield Case(f"{NAMES[kind]}: a byte behind the last field", packet(whole[0], body + b"\0"))


def before_login() -> list[Case]:
    """In place of CONNECT, or a CONNECT that is wrong."""
    cases = [*framing()]
    for kind, name in NAMES.items():
        if kind != frames.CONNECT:
            cases.append(Case(f"MQTT-3.1.0-1, {name} comes first", packet(kind | FIXED_FLAGS.get(kind, 0), ID)))
    for flags in range(1, 16):
        cases.append(Case(f"MQTT-2.2.2-2, CONNECT with flags {flags:04b}", packet(0x10 | flags, connect("a")[2:])))
    cases += [
        Case(f"not MQTT: {junk[:9]!r}", junk)
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\xee\x01\0", b"\0")
    ]
    for protocol in (b"", b"mqtt", b"MQTTT", b"MQTT\0", b"MQ", b"\xff\xfe"):
        cases.append(Case(f"MQTT-3.1.2-1, protocol name {protocol!r}", connect("a", name=protocol)))
    for level in (0, 1, 3, 6, 127, 255):
        cases.append(Case(f"MQTT-3.1.2-2, protocol level {level}", connect("a", level=level), REFUSED_LEVEL))
    cases.append(Case("MQTT-3.1.2-2, 3.1 with level 4", connect("a", name=b"MQIsdp", level=4), REFUSED_LEVEL))
    cases.append(Case("MQTT 5", connect("a", level=5), frames.UNSUPPORTED_MQTT5))
    cases.append(Case("MQTT-3.1.2-3, the reserved flag", connect("a", flags=0x01)))
    for flags in (0x08, 0x10, 0x18, 0x20, 0x38):
        cases.append(Case(f"MQTT-3.1.2-11, will flags {flags:08b} without a will", connect("a", flags=flags)))
    cases.append(Case("MQTT-3.1.2-14, a will with QoS 3", connect("a", will=("t", b""), flags=0x18)))
    cases.append(Case("MQTT-3.1.2-9, the will flag without a will", connect("a", flags=0x04)))
    cases.append(Case("MQTT-3.1.2-22, a password without a user name", connect("a", None, b"secret")))
    cases.append(Case("MQTT-3.1.2-19, the user name flag without a user name", connect("a", flags=0x80)))
    cases.append(Case("MQTT-3.1.2-21, the password flag without a password", connect("a", "a", flags=0x40)))
    cases.append(Case("MQTT-3.1.3-8, no client id and a session that is to last", connect("", clean=False), REFUSED_ID))
    head = text("MQTT") + b"\x04\x02\0\x3c"
    for name, bad in BAD_TEXTS.items():
        cases.append(Case(f"MQTT-3.1.3-4, a client id: {name}", packet(0x10, head + text(bad))))
        with_user = text("MQTT") + b"\x04\x82\0\x3c" + text("a") + text(bad)
        cases.append(Case(f"MQTT-3.1.3-11, a user name: {name}", packet(0x10, with_user)))
    for name, bad in BAD_TOPICS.items():
        with_will = text("MQTT") + b"\x04\x06\0\x3c" + text("a") + text(bad) + text("gone")
        cases.append(Case(f"MQTT-3.1.3-10, a will's topic: {name}", packet(0x10, with_will)))
    cases += shortened(frames.CONNECT, valid("t")[frames.CONNECT])
    return cases


def after_login(topic: str) -> list[Case]:
    """For a session that may publish to ``topic``."""
    cases = [*framing()]
    name = text(topic)
    for kind, whole in valid(topic).items():
        if kind == frames.CONNECT:
            cases.append(Case("MQTT-3.1.0-2, a second CONNECT", whole))
            continue
        cases += shortened(kind, whole)
        for flags in range(16):
            if flags != FIXED_FLAGS.get(kind, flags):
                cases.append(
                    Case(f"MQTT-2.2.2-2, {NAMES[kind]} with flags {flags:04b}", packet(kind | flags, whole[2:]))
                )
    for kind in (0x00, frames.CONNACK, frames.SUBACK, frames.UNSUBACK, frames.PINGRESP, 0xF0):
        for body in (b"", ID):
            cases.append(Case(f"{NAMES.get(kind, kind)} from a client, {len(body)} bytes", packet(kind, body)))
    for flags in (0x06, 0x07, 0x0E, 0x0F):
        cases.append(Case(f"MQTT-3.3.1-4, PUBLISH with QoS 3 ({flags:04b})", packet(0x30 | flags, name + ID)))
    for flags in (0x08, 0x09):
        cases.append(Case(f"MQTT-3.3.1-2, DUP with QoS 0 ({flags:04b})", packet(0x30 | flags, name)))
    for flags in (0x02, 0x04, 0x0A, 0x0C):
        cases.append(
            Case(f"MQTT-2.3.1-1, PUBLISH with packet id 0 ({flags:04b})", packet(0x30 | flags, name + b"\0\0"))
        )
    for what, bad in BAD_TOPICS.items():
        for flags, packet_id in ((0, b""), (2, ID), (4, ID)):
            cases.append(Case(f"{what}, PUBLISH with QoS {flags >> 1}", packet(0x30 | flags, text(bad) + packet_id)))
    for first in (0x40, 0x50, 0x62, 0x70):
        cases.append(Case(f"MQTT-2.3.1-6, {NAMES[first & 0xF0]} with packet id 0", packet(first, b"\0\0")))
    cases.append(Case("MQTT-2.3.1-1, SUBSCRIBE with packet id 0", packet(0x82, b"\0\0" + text("a") + b"\0")))
    cases.append(Case("MQTT-2.3.1-1, UNSUBSCRIBE with packet id 0", packet(0xA2, b"\0\0" + text("a"))))
    cases.append(Case("MQTT-3.8.3-3, SUBSCRIBE without a filter", packet(0x82, ID)))
    cases.append(Case("MQTT-3.10.3-2, UNSUBSCRIBE without a filter", packet(0xA2, ID)))
    for qos in (3, 4, 0x40, 0x80, 0x82, 0xFF):
        cases.append(Case(f"MQTT-3-8.3-4, SUBSCRIBE wants QoS {qos:#x}", packet(0x82, ID + text("a") + bytes([qos]))))
    for what, bad in BAD_FILTERS.items():
        # also behind a proper one, which must not be granted then
        for front in (b"", text("a") + b"\0"):
            cases.append(Case(f"{what}, SUBSCRIBE", packet(0x82, ID + front + text(bad) + b"\0")))
        cases.append(Case(f"{what}, UNSUBSCRIBE", packet(0xA2, ID + text(bad))))
    many = (text("a") + b"\0") * (frames.MOST_FILTERS + 1)
    cases.append(Case("a SUBSCRIBE with more filters than are taken", packet(0x82, ID + many)))
    return cases
