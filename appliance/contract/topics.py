"""MQTT topic names: the seven templates, their expansion per device, and filter matching (MQTT 3.1.1 §4.7)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

DEVICE_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SERIAL_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"
PLACEHOLDER = "{device}"
TEST_PREFIX = "test/"
"""Viewers may publish and subscribe below this, so that an installer can try the connection."""
FENCE_TOPIC = "$appliance/fence"
"""Inside the embedded broker alone: what has come out here tells that all before it has come out too."""

MOST_LOCAL_FILTERS, MOST_LOCAL_BYTES, MOST_LOCAL_LEVELS = 16, 128, 16
"""Local topics of a profile: filters in each direction, and the size of one."""

_device_id = re.compile(DEVICE_ID_PATTERN).fullmatch
_serial = re.compile(SERIAL_PATTERN).fullmatch


def is_device_id(text: str) -> bool:
    """Whether ``text`` is a device id of the contract."""
    return _device_id(text) is not None


def is_serial(text: str) -> bool:
    """Whether ``text`` is a serial number of the contract (a device id that may hold colons)."""
    return _serial(text) is not None


@dataclass(frozen=True, slots=True)
class TopicTemplates:
    """The seven topics, as templates with ``{device}``; a profile may replace any of them for its devices."""

    config_request: str = "iiot/config/request"
    config_response: str = "iiot/config/{device}"
    telemetry: str = "telemetry/{device}/data"
    command: str = "command/{device}/action"
    command_response: str = "command/{device}/response"
    ota_notify: str = "ota/{device}/notify"
    ota_status: str = "ota/{device}/status"

    def __post_init__(self) -> None:
        for name, template in self.items():
            reason = template_error(name, template)
            if reason:
                raise ValueError(f"{name} topic {template!r}: {reason}")
        templates = [template for _, template in self.items()]
        doubles = [name for name, template in self.items() if templates.count(template) > 1]
        if doubles:
            raise ValueError(f"topics must differ: {', '.join(doubles)} are the same")

    def items(self) -> Iterator[tuple[str, str]]:
        """Name and template of each of the seven."""
        return ((name, getattr(self, name)) for name in TEMPLATE_NAMES)

    def replaced(self, overrides: Mapping[str, str]) -> TopicTemplates:
        """These templates with some replaced by a profile's own; unknown names are ignored, ``ValueError`` if bad."""
        return replace(self, **{name: text for name, text in overrides.items() if name in TEMPLATE_NAMES and text})

    def expand(self, device_id: str, serial: str) -> DeviceTopics:
        """The topics of one device; the configuration answer goes by serial number, all else by device id."""
        expanded = {name: template.replace(PLACEHOLDER, device_id) for name, template in self.items()}
        expanded["config_response"] = self.config_response.replace(PLACEHOLDER, serial)
        return DeviceTopics(**expanded)

    def answer_topic(self, serial: str) -> str:
        """Where the configuration answer for this serial number goes."""
        return self.config_response.replace(PLACEHOLDER, serial)


TEMPLATE_NAMES = tuple(each.name for each in fields(TopicTemplates))
"""Of the seven, in their order."""


@dataclass(frozen=True, slots=True)
class DeviceTopics:
    """The seven exact topic names of one device."""

    config_request: str
    config_response: str
    telemetry: str
    command: str
    command_response: str
    ota_notify: str
    ota_status: str

    def receivable(self) -> tuple[str, str, str]:
        """What this device may subscribe to."""
        return (self.config_response, self.command, self.ota_notify)

    def as_dict(self) -> dict[str, str]:
        """For the configuration answer."""
        return {name: getattr(self, name) for name in TEMPLATE_NAMES}


@dataclass(frozen=True, slots=True)
class LocalTopics:
    """What the devices of a profile may say to each other through the broker: filters, in which ``{device}`` may stand.

    ``ValueError`` for anything that is not well-formed, or that could reach what is not theirs in any case: names of
    the broker (``$``), of viewers (``test/``), of everybody. That they meet no topic of the seven is the registry's to
    see (:class:`~appliance.store.local_index.LocalIndex`).
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for direction, filters in (("publish", self.publish), ("subscribe", self.subscribe)):
            if len(filters) > MOST_LOCAL_FILTERS:
                raise ValueError(f"local topics to {direction}: {len(filters)} filters, {MOST_LOCAL_FILTERS} at most")
            for each in filters:
                reason = local_filter_error(each)
                if reason:
                    raise ValueError(f"local topic {each[:MOST_LOCAL_BYTES]!r} to {direction}: {reason}")

    def expand(self, device_id: str) -> dict[str, list[str]]:
        """The filters of one device, for the configuration answer and for its rights."""
        return {
            "publish": [each.replace(PLACEHOLDER, device_id) for each in self.publish],
            "subscribe": [each.replace(PLACEHOLDER, device_id) for each in self.subscribe],
        }

    def patterns(self) -> frozenset[str]:
        """Filters that match all that any device may say or hear by these."""
        return frozenset(each.replace(PLACEHOLDER, "+") for each in (*self.publish, *self.subscribe))


def local_filter_error(text: str) -> str | None:
    """Why a filter cannot be one of a profile's local topics, or ``None``."""
    if not is_topic_filter(text):
        return "it is not a valid topic filter"
    levels = text.split("/")
    if len(text.encode()) > MOST_LOCAL_BYTES or len(levels) > MOST_LOCAL_LEVELS:
        return f"it is longer than {MOST_LOCAL_BYTES} bytes or {MOST_LOCAL_LEVELS} levels"
    if levels[0].startswith("$"):
        return "names beginning with $ are reserved for the broker"
    if text.startswith(TEST_PREFIX) or text == TEST_PREFIX.rstrip("/"):
        return f"names beginning with {TEST_PREFIX} are reserved for viewers"
    if levels[0] in ("+", "#", PLACEHOLDER, ""):
        return "its first level must be a plain name"
    if any(("{" in level or "}" in level) and level != PLACEHOLDER for level in levels):
        return f"{PLACEHOLDER} must be a whole level, and there may be no other placeholder"
    return None


def template_error(name: str, template: str) -> str | None:
    """Why a topic template cannot be used, or ``None``."""
    if not template:
        return "it is empty"
    if "+" in template or "#" in template:
        return "wildcards are not allowed"
    if template.startswith("$"):
        return "names beginning with $ are reserved for the broker"
    if template.startswith(TEST_PREFIX):
        return f"names beginning with {TEST_PREFIX} are reserved for viewers"
    if not is_topic_name(template):
        return "it is not a valid topic name"
    levels = template.split("/")
    if any(("{" in level or "}" in level) and level != PLACEHOLDER for level in levels):
        return f"{PLACEHOLDER} must be a whole level, and there may be no other placeholder"
    if name == "config_request":
        return f"{PLACEHOLDER} cannot stand in it: a device does not know its id yet" if PLACEHOLDER in levels else None
    return None if levels.count(PLACEHOLDER) == 1 else f"{PLACEHOLDER} must occur exactly once"


def is_topic_name(topic: str) -> bool:
    """Whether something may be published to this name: not empty, no wildcards, no NUL, 65,535 bytes at most."""
    return (
        bool(topic)
        and "+" not in topic
        and "#" not in topic
        and "\0" not in topic
        and len(topic.encode("utf-8", "surrogatepass")) <= 65535
    )


def is_topic_filter(text: str) -> bool:
    """Whether this is a well-formed topic filter (MQTT 3.1.1 §4.7.1)."""
    if not text or "\0" in text or len(text.encode("utf-8", "surrogatepass")) > 65535:
        return False
    levels = text.split("/")
    return all(
        level == "+" or (level == "#" and index == len(levels) - 1) or ("+" not in level and "#" not in level)
        for index, level in enumerate(levels)
    )


def filter_matches(topic_filter: str, topic: str) -> bool:
    """Whether a subscription to ``topic_filter`` receives ``topic`` (MQTT 3.1.1 §4.7)."""
    if topic_filter == topic:
        return True
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or (level != "+" and level != levels[index]):
            return False
    return len(wanted) == len(levels)


def filters_overlap(left: str, right: str) -> bool:
    """Whether any topic exists that both filters receive."""
    a, b = left.split("/"), right.split("/")
    for index in range(max(len(a), len(b))):
        here, there = (a[index] if index < len(a) else None), (b[index] if index < len(b) else None)
        if here == "#" or there == "#":
            return True
        if here is None or there is None:
            # "sport/#" also receives "sport" itself
            return False
        if here != there and "+" not in (here, there):
            return False
    return True
