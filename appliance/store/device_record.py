"""Devices as rows and rows as devices; what cannot be read of a row costs that device its memory, not its door."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from pydantic_core import from_json, to_json

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics
from appliance.store.device import Device, Told
from appliance.store.device_rows import DeviceRow

_TOPIC_NAMES = {field.name for field in fields(DeviceTopics)}


def device_of(
    row: DeviceRow,
    config: DeviceConfig,
    topics: DeviceTopics,
    *,
    earlier: tuple[DeviceTopics, ...] = (),
    disabled_reason: str | None = None,
) -> Device:
    """The device of a row, with what its configuration and topics were found to be."""
    return Device(
        device_id=row.device_id,
        serial=row.serial,
        generation=row.generation,
        valid_from=row.valid_from,
        login_generation=row.login_generation,
        enabled=disabled_reason is None,
        config=config,
        topics=topics,
        firmware_version=row.firmware_version,
        hardware=row.hardware,
        paired_at_ms=row.paired_at_ms,
        first_login_at_ms=row.first_login_at_ms,
        disabled_reason=disabled_reason,
        paired_generation=row.paired_generation,
        secret_version=row.secret_version,
        told=read_told(row.told),
        taken=read_told(row.taken),
        earlier=earlier,
    )


def row_of(device: Device, *, enabled: bool, with_config: bool = False, with_topics: bool = True) -> DeviceRow:
    """The row of a device; ``enabled`` is the switch, which a device that cannot be served may have on. Configuration
    and topics cost most to write, and most changes leave them as they are."""
    return DeviceRow(
        device_id=device.device_id,
        serial=device.serial,
        generation=device.generation,
        valid_from=device.valid_from,
        login_generation=device.login_generation,
        enabled=int(enabled),
        config=device.config.model_dump_json() if with_config else "",
        firmware_version=device.firmware_version,
        hardware=device.hardware,
        paired_at_ms=device.paired_at_ms,
        first_login_at_ms=device.first_login_at_ms,
        paired_generation=device.paired_generation,
        secret_version=device.secret_version,
        told=write_told(device.told),
        taken=write_told(device.taken),
        topics=write_topics([device.topics]) if with_topics else None,
        earlier=write_topics(device.earlier) if with_topics and device.earlier else None,
    )


def write_told(told: Told | None) -> str | None:
    """As JSON."""
    if told is None:
        return None
    return to_json([told.version, told.generation, told.digest.hex(), told.topics.hex(), told.asked]).decode()


def read_told(text: str | None) -> Told | None:
    """The reverse; ``None`` also for what cannot be read: the device is told again."""
    if text is None:
        return None
    try:
        version, generation, digest, topics, asked = from_json(text)
        return Told(int(version), int(generation), bytes.fromhex(digest), bytes.fromhex(topics), bool(asked))
    except (ValueError, TypeError):
        return None


def write_topics(topics: Iterable[DeviceTopics]) -> str:
    """Lists of names as JSON."""
    return to_json(list(topics)).decode()


def read_topics(text: str | None) -> tuple[DeviceTopics, ...]:
    """The reverse; nothing for what cannot be read."""
    if text is None:
        return ()
    try:
        return tuple(DeviceTopics(**each) for each in from_json(text) if _are_topics(each))
    except (ValueError, TypeError):
        return ()


def _are_topics(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == _TOPIC_NAMES and all(type(v) is str for v in value.values())
