"""Topic templates with ``{device}``: the names a profile may replace, and what a template must look like.

The same rules as the appliance's: a template that it would refuse is refused when the profile is saved.
"""

from __future__ import annotations

import re

from .worded import Worded, _

PLACEHOLDER = "{device}"
DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
DEFAULTS = {
    "telemetry": "telemetry/{device}/data",
    "command": "command/{device}/action",
    "command_response": "command/{device}/response",
    "ota_notify": "ota/{device}/notify",
    "ota_status": "ota/{device}/status",
}
"""Of the five that a profile may replace; the two of configuration belong to the gateway."""
TEST_PREFIX = "test/"
MOST_LOCAL_FILTERS, MOST_LOCAL_BYTES, MOST_LOCAL_LEVELS = 16, 128, 16
GATEWAY_DEFAULTS = {"config_request": "iiot/config/request", "config_response": "iiot/config/{device}", **DEFAULTS}
"""All seven, as an appliance has them where nobody has changed them."""


def is_device_id(text: str) -> bool:
    """Whether ``text`` is a device id of the contract."""
    return DEVICE_ID.fullmatch(text) is not None


def is_serial(text: str) -> bool:
    """Whether ``text`` is a serial number of the contract (a device id that may hold colons)."""
    return SERIAL.fullmatch(text) is not None


def expand(template: str, device_id: str) -> str:
    """The topic of one device."""
    return template.replace(PLACEHOLDER, device_id)


def template_error(template: str) -> Worded | None:
    """Why a topic template cannot be used, or ``None``."""
    if not template:
        return Worded(_("it is empty"))
    if "+" in template or "#" in template:
        return Worded(_("wildcards are not allowed"))
    if template.startswith("$"):
        return Worded(_("names beginning with $ are reserved for the broker"))
    if template.startswith(TEST_PREFIX):
        return Worded(_("names beginning with %(prefix)s are reserved for viewers"), prefix=TEST_PREFIX)
    if "\0" in template or len(template.encode("utf-8", "surrogatepass")) > 65535:
        return Worded(_("it is not a valid topic name"))
    if _foreign_braces(template.split("/")):
        return _braces_are_foreign()
    if template.split("/").count(PLACEHOLDER) != 1:
        return Worded(_("%(device)s must occur exactly once"), device=PLACEHOLDER)
    return None


def local_filter_error(text: str) -> Worded | None:
    """Why a filter cannot be one of a profile's local topics, or ``None``."""
    levels = text.split("/")
    if not text or "\0" in text or not all(_is_filter_level(levels, index) for index in range(len(levels))):
        return Worded(_("it is not a valid topic filter"))
    if len(text.encode("utf-8", "surrogatepass")) > MOST_LOCAL_BYTES or len(levels) > MOST_LOCAL_LEVELS:
        return Worded(
            _("it is longer than %(bytes)s bytes or %(levels)s levels"),
            bytes=MOST_LOCAL_BYTES,
            levels=MOST_LOCAL_LEVELS,
        )
    if levels[0].startswith("$"):
        return Worded(_("names beginning with $ are reserved for the broker"))
    if levels[0] == TEST_PREFIX.rstrip("/"):
        return Worded(_("names beginning with %(prefix)s are reserved for viewers"), prefix=TEST_PREFIX)
    if levels[0] in ("+", "#", PLACEHOLDER, ""):
        return Worded(_("its first level must be a plain name"))
    if _foreign_braces(levels):
        return _braces_are_foreign()
    return None


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


def _braces_are_foreign() -> Worded:
    return Worded(_("%(device)s must be a whole level, and there may be no other placeholder"), device=PLACEHOLDER)


def _foreign_braces(levels: list[str]) -> bool:
    return any(("{" in level or "}" in level) and level != PLACEHOLDER for level in levels)


def _is_filter_level(levels: list[str], index: int) -> bool:
    level = levels[index]
    return level == "+" or (level == "#" and index == len(levels) - 1) or ("+" not in level and "#" not in level)
