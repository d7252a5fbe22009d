"""What waits for one attached client: bounded by number and by bytes, and what of it survives a lost connection."""

from __future__ import annotations

from typing import Any, cast

from appliance.broker import frames
from appliance.broker.connection import Connection
from appliance.broker.outbound import OVERHEAD_BYTES, Message, Outbound


class Wire:
    """Stands for a connection."""

    def __init__(self, *, writing_paused: bool = False) -> None:
        self.writing_paused = writing_paused
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def outbound(wire: Wire | None = None, **limits: Any) -> Outbound:
    made = Outbound(**({"most_messages": 100, "most_bytes": 1 << 20} | limits))
    if wire is not None:
        made.resume(cast(Connection, wire))
    return made


def test_a_client_that_does_not_read_gets_the_newest_later_and_the_oldest_never() -> None:
    wire = Wire(writing_paused=True)
    out = outbound(wire, most_messages=2)
    for number in range(5):
        out.send(Message("a", b"%d" % number, 0))
    assert (wire.written, out.dropped) == ([], 3)
    wire.writing_paused = False
    out.flush()
    assert wire.written == [frames.publish("a", b"3"), frames.publish("a", b"4")]


def test_large_messages_are_bounded_by_their_bytes() -> None:
    out = outbound(Wire(writing_paused=True), most_bytes=3 * (OVERHEAD_BYTES + 1001))
    for _ in range(5):
        out.send(Message("a", b"x" * 1000, 1))
    assert (len(out), out.dropped) == (3, 2)
    out.flush()
    out.disconnected()
    wire = Wire()
    out.resume(cast(Connection, wire))
    assert len(wire.written) == 3
    assert len(out) == 0


def test_qos_0_that_was_not_sent_ends_with_the_connection() -> None:
    out = outbound(Wire(writing_paused=True))
    for qos in (0, 1, 0, 2):
        out.send(Message("a", b"%d" % qos, qos))
    out.disconnected()
    wire = Wire()
    out.resume(cast(Connection, wire))
    assert wire.written == [
        frames.publish("a", b"1", qos=1, packet_id=1),
        frames.publish("a", b"2", qos=2, packet_id=2),
    ]


def test_an_acknowledgement_of_the_wrong_kind_frees_nothing() -> None:
    wire = Wire()
    out = outbound(wire)
    out.send(Message("a", b"", 1))
    out.send(Message("a", b"", 2))
    out.completed(1)
    out.acknowledged(2)
    out.completed(2)
    out.acknowledged(99)
    again = Wire()
    out.resume(cast(Connection, again))
    assert len(again.written) == 2


def test_packet_ids_in_use_are_passed_over() -> None:
    wire = Wire()
    out = outbound(wire)
    out.send(Message("stays", b"", 1))
    for number in range(2, 65_536):
        out.send(Message("a", b"", 1))
        out.acknowledged(number)
    out.send(Message("last", b"", 1))
    assert wire.written[-1] == frames.publish("last", b"", qos=1, packet_id=2)
