"""Signed links to firmware files: the link is the permission, for one file, one update, and a time.

A token is ``position of the update (5 bytes), end in seconds of the steady clock (5), HMAC-SHA256 cut to 18`` as
base64url: 38 characters, for an offer must stay below 512 bytes. The signature covers the file's name too.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from appliance.errors import LinkRefusedError

FIRMWARE_PATH = "/firmware"
TOKEN_CHARACTERS = 38
_NUMBER_BYTES = 5
_MAC_BYTES = 18


class Link(NamedTuple):
    """What a genuine token says. ``expires_ms`` is a time of the steady clock of updates."""

    position: int
    expires_ms: int


class FirmwareLinks:
    """Makes and reads links; ``base_url`` is what devices reach the HTTP API by, without a slash at its end."""

    def __init__(self, *, key: bytes, base_url: str) -> None:
        self._key = key
        self._base_url = base_url

    def url(self, sha256: str, *, position: int, expires_ms: int) -> str:
        """The link to a file for one update. The same arguments make the same link."""
        head = position.to_bytes(_NUMBER_BYTES, "big") + (expires_ms // 1000).to_bytes(_NUMBER_BYTES, "big")
        token = urlsafe_b64encode(head + self._mac(sha256, head)).rstrip(b"=").decode()
        return f"{self._base_url}{FIRMWARE_PATH}/{sha256}?t={token}"

    def longest(self) -> str:
        """A link as long as any."""
        return self.url("0" * 64, position=0, expires_ms=0)

    def read(self, sha256: str, token: str) -> Link:
        """:class:`LinkRefusedError` unless the token was made here for this file. Its end is the caller's to judge."""
        try:
            content = urlsafe_b64decode(token.encode("ascii") + b"==") if len(token) == TOKEN_CHARACTERS else b""
        except (binascii.Error, ValueError):
            content = b""
        head, mac = content[: 2 * _NUMBER_BYTES], content[2 * _NUMBER_BYTES :]
        if not hmac.compare_digest(mac, self._mac(sha256, head)):
            raise LinkRefusedError("this link was not made here, or not for this file")
        position, expires_s = head[:_NUMBER_BYTES], head[_NUMBER_BYTES:]
        return Link(int.from_bytes(position, "big"), int.from_bytes(expires_s, "big") * 1000)

    def _mac(self, sha256: str, head: bytes) -> bytes:
        return hmac.new(self._key, head + sha256.encode("utf-8", "replace"), hashlib.sha256).digest()[:_MAC_BYTES]
