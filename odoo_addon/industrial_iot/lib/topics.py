"""Topic templates with ``{device}``: the names a profile may replace, and what a template must look like.

The same rules as the appliance's: a template that it would refuse is refused when the profile is saved.
"""

from __future__ import annotations

import re

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


def is_device_id(text: str) -> bool:
    """Whether ``text`` is a device id of the contract."""
    return DEVICE_ID.fullmatch(text) is not None


def is_serial(text: str) -> bool:
    """Whether ``text`` is a serial number of the contract (a device id that may hold colons)."""
    return SERIAL.fullmatch(text) is not None


def expand(template: str, device_id: str) -> str:
    """The topic of one device."""
    return template.replace(PLACEHOLDER, device_id)
