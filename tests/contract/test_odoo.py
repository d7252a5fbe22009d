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


@pytest.mark.parametrize("flags", [0, ClockFlag.DEVICE, ClockFlag.AHEAD])
def test_a_batch_is_json_with_the_payload_as_the_device_sent_it(flags: int) -> None:
    message = StoredMessage(7, "press-07", Kind.TELEMETRY, None, 1_763_805_600_000, flags, b'{"t": 1.10}')
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
        "at": "2025-11-22T10:00:00.000Z",
        "received_at": "2025-11-22T10:00:00.000Z",
        "lane": "live",
        "payload": {"t": 1.1},
    }
    if flags & ClockFlag.AHEAD:
        expected["clock"] = "ahead"
    assert batch["messages"] == [expected, {"seq": 8}]


@pytest.mark.parametrize("unset", [None, False, {}, {"publish": False, "subscribe": None}, {"publish": []}])
def test_local_topics_that_are_not_set_are_none(unset: object) -> None:
    assert DeviceConfig.model_validate({"device_id": "press-07", "local_topics": unset}).local() is None


def test_local_topics_that_cannot_be_used_are_an_error_of_their_device_and_not_of_the_whole_answer() -> None:
    config = DeviceConfig.model_validate({"device_id": "press-07", "local_topics": {"publish": ["$SYS/x"]}})
    with pytest.raises(ValueError, match="belong to the broker"):
        config.local()
