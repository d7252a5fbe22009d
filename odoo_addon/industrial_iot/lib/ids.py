"""Names of commands and updates: UUIDs of version 7, so that those made together lie together in an index."""

from __future__ import annotations

import os
import re
import time
from uuid import UUID

COMMAND_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
"""As the contract allows them; others than Odoo may give commands other names than UUIDs."""


def new_id() -> str:
    """RFC 9562, section 5.7."""
    now_ms = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    high = (now_ms & 0xFFFF_FFFF_FFFF) << 80
    return str(UUID(int=high | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0b10 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF))
