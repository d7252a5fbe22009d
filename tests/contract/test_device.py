"""What devices send: readings, times, identities."""

from __future__ import annotations

from random import Random

import pytest

from appliance.contract.device import (
    MOST_READINGS,
    CommandResponse,
    PayloadError,
    Reading,
    _parse_in_full,
    parse_body,
    parse_telemetry,
)
from appliance.contract.times import EARLIEST_MS, ClockFlag, device_time, parse_rfc3339, rfc3339

NOW_MS = 1_763_805_600_000  # 2025-11-22T10:00:00Z


def test_an_object_is_one_reading_as_it_was_sent() -> None:
    payload = b' {"t": 1.10,  "msg_id": "m-1", "ts": "2025-11-22T09:59:59.5Z"} '
    (reading,) = parse_telemetry(payload, NOW_MS)
    assert reading == Reading(payload, NOW_MS - 500, ClockFlag.DEVICE, "m-1")


def test_an_array_of_objects_is_several_readings() -> None:
    readings = parse_telemetry(b'[{"msg_id": 7}, {"ts": 1763805600, "t": "\xc3\xbc"}]', NOW_MS)
    assert [(reading.payload, reading.at_ms, reading.msg_id) for reading in readings] == [
        (b'{"msg_id":7}', None, "7"),
        ('{"ts":1763805600,"t":"ü"}'.encode(), NOW_MS, None),
    ]


@pytest.mark.parametrize("payload", [b"23.5", b'"text"', b"null", b"[]", b"[1, 2]", b'[{"a": 1}, 2]', b"true"])
def test_any_other_json_is_one_reading_as_it_stands(payload: bytes) -> None:
    assert parse_telemetry(payload, NOW_MS) == [Reading(payload)]


def test_the_short_way_takes_only_what_a_full_reading_takes_and_finds_the_same() -> None:
    random = Random(4)
    seeds = [
        '{"ts":"2025-11-22T10:00:00Z","msg_id":"a-1","v":[1,2.5e-3,-0],"s":"ü\\u00fc\\n\\ud83d","b":true}'.encode(),
        b'{"ts":1763805600.25,"msg_id":7,"n":null,"o":{"x":{}}}',
        b' {"a":"","b":[{}],"c":1E5,"d":-1.0e+10} ',
    ]
    letters = b'{}[]",:\\u0123456789eE+-.truefalsn \t\n\x00\x1f\x80\xc3\xff/'
    taken = 0
    for _ in range(20_000):
        payload = bytearray(random.choice(seeds))
        for _ in range(random.randint(1, 3)):
            position = random.randrange(len(payload))
            payload[position : position + random.randint(0, 1)] = bytes([random.choice(letters)])
        try:
            expected = _parse_in_full(bytes(payload), NOW_MS)
        except PayloadError:
            with pytest.raises(PayloadError):
                parse_telemetry(bytes(payload), NOW_MS)
        else:
            taken += 1
            assert parse_telemetry(bytes(payload), NOW_MS) == expected
    assert taken > 1000


def test_a_number_of_too_many_digits_is_refused_for_odoo_could_not_read_the_batch() -> None:
    with pytest.raises(PayloadError, match="not JSON"):
        parse_telemetry(b'{"a":' + b"1" * 5000 + b"}", NOW_MS)


def test_an_array_of_more_readings_than_can_be_read_in_a_moment_is_refused() -> None:
    assert len(parse_telemetry(b"[" + b",".join([b"{}"] * MOST_READINGS) + b"]", NOW_MS)) == MOST_READINGS
    with pytest.raises(PayloadError) as caught:
        parse_telemetry(b"[" + b",".join([b"{}"] * (MOST_READINGS + 1)) + b"]", NOW_MS)
    assert caught.value.code == "too_many_readings"


def test_deep_nesting_is_refused_whichever_way_it_is_read() -> None:
    for depth in (1000, 100_000):
        with pytest.raises(PayloadError, match="not JSON"):
            parse_telemetry(b'{"a":' * depth + b"1" + b"}" * depth, NOW_MS)


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"nan", b'{"a": NaN}', b"\xff", b'{"a": Infinity}', b"[" * 100_000, b'{"a": 1} x']
)
def test_what_is_not_json_is_said_to_be_none(payload: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        parse_telemetry(payload, NOW_MS)
    assert caught.value.code == "not_json"


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        (1_763_805_600, (NOW_MS, ClockFlag.DEVICE)),
        (1_763_805_600.25, (NOW_MS + 250, ClockFlag.DEVICE)),
        (NOW_MS, (NOW_MS, ClockFlag.DEVICE)),
        ("2025-11-22T11:00:00+01:00", (NOW_MS, ClockFlag.DEVICE)),
        ("2025-11-22T10:00:00", (NOW_MS, ClockFlag.DEVICE)),
        (0, (0, ClockFlag.OLD)),
        (946_684_800, (946_684_800_000, ClockFlag.OLD)),
        ("2000-01-01T00:00:07Z", (946_684_807_000, ClockFlag.OLD)),
        (EARLIEST_MS - 1, (EARLIEST_MS - 1, ClockFlag.OLD)),
        (EARLIEST_MS, (EARLIEST_MS, ClockFlag.DEVICE)),
        (NOW_MS + 300_000, (NOW_MS + 300_000, ClockFlag.DEVICE)),
        (NOW_MS + 300_001, (NOW_MS + 300_001, ClockFlag.AHEAD)),
        ("2999-01-01T00:00:00Z", (32_472_144_000_000, ClockFlag.AHEAD)),
        (-1, (None, ClockFlag.UNREADABLE)),
        (10**30, (None, ClockFlag.UNREADABLE)),
        (10**400, (None, ClockFlag.UNREADABLE)),
        (-1e308, (None, ClockFlag.UNREADABLE)),
        (float("inf"), (None, ClockFlag.UNREADABLE)),
        (float("nan"), (None, ClockFlag.UNREADABLE)),
        ("yesterday", (None, ClockFlag.UNREADABLE)),
        (True, (None, ClockFlag.UNREADABLE)),
        (None, (None, ClockFlag.UNREADABLE)),
        ([], (None, ClockFlag.UNREADABLE)),
        ("0001-01-01T00:00:00+14:00", (None, ClockFlag.UNREADABLE)),
    ],
)
def test_a_devices_time_is_judged_by_the_gateways(ts: object, expected: tuple[int | None, ClockFlag]) -> None:
    assert device_time(ts, NOW_MS) == expected


@pytest.mark.parametrize("msg_id", ['""', '"' + "x" * 65 + '"', "null", "true", "[1]", "{}"])
def test_an_unusable_msg_id_is_none_and_the_reading_is_kept(msg_id: str) -> None:
    (reading,) = parse_telemetry(f'{{"msg_id": {msg_id}}}'.encode(), NOW_MS)
    assert reading.msg_id is None


def test_readings_of_an_array_are_json_again_whatever_their_numbers() -> None:
    readings = parse_telemetry(b'[{"a": 1e999}, {"a": [-1e999]}]', NOW_MS)
    assert [reading.payload for reading in readings] == [b'{"a":null}', b'{"a":[null]}']


def test_times_survive_the_wire() -> None:
    for ms in (0, 1, 999, NOW_MS, 253_402_300_799_999):
        assert parse_rfc3339(rfc3339(ms)) == ms
    assert rfc3339(NOW_MS + 7) == "2025-11-22T10:00:00.007Z"


def test_a_command_response_of_a_wrong_form_says_what_is_wrong_without_repeating_it() -> None:
    for payload, code in ((b"{", "not_json"), (b'{"status": "s3cret"}', "invalid"), (b"[]", "invalid")):
        with pytest.raises(PayloadError) as caught:
            parse_body(CommandResponse, payload)
        assert caught.value.code == code
        assert "s3cret" not in caught.value.message
