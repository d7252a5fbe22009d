"""Device secrets."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace

import pytest

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import TopicTemplates
from appliance.services.credentials import Credentials
from appliance.store.devices import Device

KEY = bytes(range(32))
DEVICE = Device(
    device_id="press-07",
    serial="SN-1",
    generation=3,
    valid_from=2,
    enabled=True,
    config=DeviceConfig(device_id="press-07"),
    topics=TopicTemplates().expand("press-07", "SN-1"),
    paired_at_ms=0,
)


def test_a_secret_is_derived_from_master_key_device_id_and_generation() -> None:
    password = Credentials(KEY).password("press-07", 3)
    digest = hmac.digest(KEY, b"secret\0press-07\x003", "sha256")
    assert base64.urlsafe_b64decode(password + "=") == digest
    others = [
        Credentials(bytes(32)).password("press-07", 3),
        Credentials(KEY).password("press-08", 3),
        Credentials(KEY).password("press-07", 4),
        Credentials(KEY).password("press-0", 73),
    ]
    assert len({password, *others}) == 5


def test_valid_generations_are_accepted_and_told_apart() -> None:
    credentials = Credentials(KEY)
    accepted = [
        credentials.accepted_generation(DEVICE, credentials.password("press-07", generation))
        for generation in range(1, 5)
    ]
    assert accepted == [None, 2, 3, None]
    alone = replace(DEVICE, valid_from=3)
    assert credentials.accepted_generation(alone, credentials.password("press-07", 2)) is None


@pytest.mark.parametrize("wrong", ["", "x", "ü" * 43, "\ud800", "A" * 43, "A" * 100_000])
def test_anything_else_is_refused(wrong: str) -> None:
    assert Credentials(KEY).accepted_generation(DEVICE, wrong) is None


def test_another_devices_secret_is_refused() -> None:
    credentials = Credentials(KEY)
    assert credentials.accepted_generation(DEVICE, credentials.password("press-08", 3)) is None


def test_a_master_key_of_another_size_is_refused_and_no_key_is_ever_shown() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Credentials(b"short")
    assert KEY.hex() not in repr(Credentials(KEY))
    assert repr(KEY) not in repr(Credentials(KEY))


def test_what_is_remembered_of_a_token_depends_on_key_serial_number_and_token() -> None:
    credentials = Credentials(KEY)
    digests = {
        credentials.token_digest("SN-1", "K7QF"),
        credentials.token_digest("SN-2", "K7QF"),
        credentials.token_digest("SN-1", "K7QG"),
        Credentials(bytes(32)).token_digest("SN-1", "K7QF"),
    }
    assert len(digests) == 4
    assert credentials.request_id("SN-1", "K7QF") == Credentials(KEY).request_id("SN-1", "K7QF")
    assert credentials.request_id("SN-1", "K7QF") != credentials.request_id("SN-1", "K7QG")
