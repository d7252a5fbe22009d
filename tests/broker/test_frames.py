"""Packets: every field cut short, every forbidden value, and what is written comes out again."""

from __future__ import annotations

import pytest

from appliance.broker import frames
from appliance.broker.frames import Connect, ProtocolError, Will
from tests.broker.rig import connect, packet, text


def parse_connect(data: bytes) -> Connect:
    _, start, end = next(frames.split(data))
    return frames.parse_connect(data, start, end)


def test_every_field_of_connect_is_read() -> None:
    data = connect("press-07", "sam", b"\x00\xff", will=("gone", b"lost"), flags=0x28, keep_alive_s=600, clean=False)
    will = Will(topic="gone", payload=b"lost", qos=1, retain=True)
    assert parse_connect(data) == Connect(4, "press-07", False, 600, "sam", b"\x00\xff", will)
    assert parse_connect(connect("", clean=True, keep_alive_s=0)) == Connect(4, "", True, 0, None, None, None)


def test_a_password_does_not_show() -> None:
    assert "secret" not in repr(parse_connect(connect("a", "b", b"secret")))


def test_a_connect_that_ends_in_the_middle_of_any_field_is_refused() -> None:
    data = connect("press-07", "press-07", b"secret", will=("gone", b"lost"))
    _, start, end = next(frames.split(data))
    frames.parse_connect(data, start, end)
    for cut in range(start, end):
        with pytest.raises(ProtocolError):
            frames.parse_connect(data[:cut], start, cut)
    with pytest.raises(ProtocolError):
        frames.parse_connect(data + b"x", start, end + 1)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (connect("a", level=5), "2003008400"),
        (connect("a", level=3), "20020001"),
        (connect("a", level=6), "20020001"),
        (connect("a", level=0x84), "20020001"),
        (connect("a", name=b"MQIsdp", level=4), "20020001"),
        (connect("a", name=b"mqtt"), ""),
        (connect("a", name=b"\xff"), ""),
        (connect("a", flags=0x01), ""),
        (connect("a", flags=0x08), ""),
        (connect("a", flags=0x20), ""),
        (connect("a", will=("gone", b""), flags=0x18), ""),
        (connect("a", will=("gone/+", b"")), ""),
        (connect("a", will=("", b"")), ""),
        (connect("a\0b"), ""),
        (connect("a", "b\0", b""), ""),
        (packet(0x10, text("MQTT") + b"\x04\x42\x00\x00" + text("a") + text("password")), ""),
        (packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(b"\xed\xa0\x80")), ""),
        (packet(0x10, text("MQTT") + b"\x04\x82\x00\x00" + text("a") + text(b"\xc0\x80")), ""),
    ],
)
def test_a_connect_that_breaks_the_specification_is_refused_with_its_reply(data: bytes, reply: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_connect(data)
    assert caught.value.reply == bytes.fromhex(reply)


def test_filters_of_subscribe_and_unsubscribe_are_read_in_their_order() -> None:
    data = packet(0x82, b"\x01\x02" + text("a/+") + b"\x02" + text("#") + b"\x00" + text("a/+") + b"\x01")
    _, start, end = next(frames.split(data))
    assert frames.parse_subscribe(data, start, end) == (0x0102, [("a/+", 2), ("#", 0), ("a/+", 1)])
    data = packet(0xA2, b"\xff\xff" + text("a") + text("b/#"))
    _, start, end = next(frames.split(data))
    assert frames.parse_unsubscribe(data, start, end) == (0xFFFF, ["a", "b/#"])


def test_subscribe_and_unsubscribe_that_end_in_the_middle_of_any_field_are_refused() -> None:
    for parse, body in (
        (frames.parse_subscribe, b"\x00\x01" + text("a/b") + b"\x01"),
        (frames.parse_unsubscribe, b"\x00\x01" + text("a/b")),
    ):
        parse(body, 0, len(body))
        for cut in range(len(body)):
            with pytest.raises(ProtocolError):
                parse(body[:cut], 0, cut)


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x00" + text("a") + b"\x00",
        b"\x00\x01" + text("a") + b"\x03",
        b"\x00\x01" + text("a") + b"\x81",
        b"\x00\x01" + text("") + b"\x00",
        b"\x00\x01" + text("a+") + b"\x00",
        b"\x00\x01" + text("#/a") + b"\x00",
        b"\x00\x01" + text("a\0") + b"\x00",
        b"\x00\x01" + text(b"\x80") + b"\x00",
        b"\x00\x01" + (text("a") + b"\x00") * (frames.MOST_FILTERS + 1),
    ],
)
def test_a_subscribe_with_a_forbidden_value_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.parse_subscribe(body, 0, len(body))


def test_acknowledgements_have_two_bytes() -> None:
    assert frames.parse_packet_id(b"\x01\x02", 0, 2) == 0x0102
    for body in (b"", b"\x01", b"\x01\x02\x03"):
        with pytest.raises(ProtocolError):
            frames.parse_packet_id(body, 0, len(body))


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
        (268_435_455, "ffffff7f"),
    ],
)
def test_remaining_lengths_are_encoded_as_in_the_specification(length: int, encoded: str) -> None:
    assert frames.remaining_length(length).hex() == encoded


def test_what_is_written_is_cut_into_the_same_packets() -> None:
    written = [
        frames.connack(frames.ACCEPTED, session_present=True),
        frames.publish("a/b", b"x" * 200, qos=2, packet_id=0x1234, dup=True, retain=True),
        frames.publish("a/b", b"", qos=0, packet_id=7),
        frames.suback(5, [0, 1, 2, 0x80] * 50),
        frames.unsuback(6),
        frames.PINGRESP_FRAME,
    ]
    data = b"".join(written)
    cut = [(header, data[start:end]) for header, start, end in frames.split(data)]
    assert cut == [
        (0x20, b"\x01\x00"),
        (0x3D, text("a/b") + b"\x12\x34" + b"x" * 200),
        (0x30, text("a/b")),
        (0x90, b"\x00\x05" + bytes([0, 1, 2, 0x80] * 50)),
        (0xB0, b"\x00\x06"),
        (0xD0, b""),
    ]


def test_session_present_is_never_told_to_who_is_refused() -> None:
    assert frames.connack(frames.BAD_CREDENTIALS, session_present=True) == b"\x20\x02\x00\x04"
