"""systemd's notification protocol: datagrams to a socket whose name is in the environment (``man sd_notify``)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

MICROSECONDS = 1_000_000


class Notifier:
    """Tells systemd how the service is; does nothing where nobody listens. Never blocks, never raises."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        name = environment.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the zero byte of Linux's abstract names
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self.watchdog_s = _watchdog_s(environment)
        """Within so many seconds systemd expects to hear ``WATCHDOG=1``; ``None``: it does not."""

    @property
    def listens(self) -> bool:
        """Whether anybody does."""
        return bool(self._address)

    def tell(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``, together."""
        if not self._address:
            return
        text = "\n".join(assignments).encode(errors="replace")
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            sending.sendto(text, self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    pid, microseconds = environment.get("WATCHDOG_PID", ""), environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or not int(microseconds) or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / MICROSECONDS
