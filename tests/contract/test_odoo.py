"""Bodies between appliance and Odoo."""

from __future__ import annotations

import json

import pytest

from appliance.contract.odoo import DeviceConfig, Kind, StoredMessage, encode_batch, encode_message
from appliance.contract.times import ClockFlag


def test_a_field_that_odoo_leaves_unset_as_null_or_false_means_the_default() -> None:
    config = DeviceConfig.model_validate(
        {
            "device_id": "press-07",
            "topics": False,
            "command_template": None,
            "max_packet_bytes": False,
            "command_is_json": False,
            "mqtt": {"host": False, "port": None, "tls": False},
        }
    )
    assert config.topics == {}
    assert config.command_template == DeviceConfig(device_id="press-07").command_template
    assert (config.max_packet_bytes, config.command_is_json) == (None, False)
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.tls) == (None, None, False)


OWN_MS = 1_763_805_599_000
BY_ITSELF = "2025-11-22T09:59:59.000Z"


@pytest.mark.parametrize(
    ("own_ms", "flags", "at", "said"),
    [
        (None, 0, None, {}),
        (OWN_MS, ClockFlag.DEVICE, BY_ITSELF, {"clock": "ok"}),
        (OWN_MS, ClockFlag.AHEAD, None, {"clock": "ahead", "device_at": BY_ITSELF}),
        (OWN_MS, ClockFlag.OLD, None, {"clock": "old", "device_at": BY_ITSELF}),
        (None, ClockFlag.AHEAD, None, {"clock": "ahead"}),
        (None, ClockFlag.UNREADABLE, None, {"clock": "unreadable"}),
        (None, ClockFlag.GATEWAY, None, {"gateway_clock": "implausible"}),
        (
            *(OWN_MS, ClockFlag.GATEWAY | ClockFlag.AHEAD, None),
            {"clock": "ahead", "device_at": BY_ITSELF, "gateway_clock": "implausible"},
        ),
        (OWN_MS, 0, BY_ITSELF, {}),
    ],
)
def test_a_batch_says_what_it_thinks_of_the_clocks_and_keeps_the_payload_as_the_device_sent_it(
    own_ms: int | None, flags: int, at: str | None, said: dict[str, str]
) -> None:
    message = StoredMessage(7, "press-07", Kind.TELEMETRY, own_ms, 1_763_805_600_000, flags, b'{"t": 1.10}')
    body = encode_batch(
        gateway="g", epoch="e", floor=7, settled=6, messages=[encode_message(message, "live"), b'{"seq":8}']
    )
    assert b'"payload":{"t": 1.10}' in body
    batch = json.loads(body)
    assert (batch["contract"], batch["floor"], batch["settled"]) == (1, 7, 6)
    expected = {
        "seq": 7,
        "device": "press-07",
        "kind": "telemetry",
        "at": at or "2025-11-22T10:00:00.000Z",
        "received_at": "2025-11-22T10:00:00.000Z",
        "lane": "live",
        "payload": {"t": 1.1},
    }
    assert batch["messages"] == [expected | said, {"seq": 8}]


@pytest.mark.parametrize("unset", [None, False, {}, {"publish": False, "subscribe": None}, {"publish": []}])
def test_local_topics_that_are_not_set_are_none(unset: object) -> None:
    assert DeviceConfig.model_validate({"device_id": "press-07", "local_topics": unset}).local() is None


def test_local_topics_that_cannot_be_used_are_an_error_of_their_device_and_not_of_the_whole_answer() -> None:
    config = DeviceConfig.model_validate({"device_id": "press-07", "local_topics": {"publish": ["$SYS/x"]}})
    with pytest.raises(ValueError, match="reserved for the broker"):
        config.local()
