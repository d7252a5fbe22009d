"""Device secrets: derived from one master key, so that none is stored and a lost answer can be repeated.

The secret of a device is ``HMAC-SHA256(master key, device id, generation)`` as base64url (contract, "Who a connection
is"). It has 256 bits, so the comparison needs no slow hash (architecture, decision 7). Tokens are short enough to
type; their digests are keyed too, so that the database file alone does not give them away.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode

from appliance.store.devices import Device

MASTER_KEY_BYTES = 32


class Credentials:
    """Derives and checks secrets with the master key (32 random bytes)."""

    __slots__ = ("_key",)

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != MASTER_KEY_BYTES:
            raise ValueError(f"a master key has {MASTER_KEY_BYTES} bytes")
        self._key = master_key

    def password(self, device_id: str, generation: int) -> str:
        """The device's secret of a generation, 43 characters."""
        # neither a device id nor a number holds a NUL, so no two inputs read the same
        digest = self._digest("secret", device_id, str(generation))
        return urlsafe_b64encode(digest).rstrip(b"=").decode()

    def accepted_generation(self, device: Device, password: str) -> int | None:
        """The generation whose secret this is, if that one is valid. Takes the same time for every wrong one."""
        given = password.encode("utf-8", "replace")
        found = None
        for generation in range(device.valid_from, device.generation + 1):
            if hmac.compare_digest(self.password(device.device_id, generation).encode(), given):
                found = generation
        return found

    def token_digest(self, serial: str, token: str) -> bytes:
        """What the appliance remembers of a pairing token."""
        return self._digest("token", serial, token)

    def request_id(self, serial: str, token: str) -> str:
        """The request id of a device that sends none: the same for each repeat of its request, also after a restart."""
        return f"auto-{self._digest('request', serial, token).hex()[:32]}"

    def key(self, purpose: str) -> bytes:
        """A key for something else than passwords, 32 bytes; the same after a restart."""
        return self._digest("key", purpose)

    def _digest(self, *parts: str) -> bytes:
        message = "\0".join(parts).encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).digest()
