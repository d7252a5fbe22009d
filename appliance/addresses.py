"""What this machine is called: the names and addresses under which devices may reach it."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of a network interface (netdevice(7))."""
_INET6 = Path("/proc/net/if_inet6")


def own_names() -> list[str]:
    """Names and addresses, the likeliest first; ``localhost`` and the loopback addresses always among them."""
    host = socket.gethostname()
    with suppress(OSError):
        return list(dict.fromkeys([host, socket.getfqdn(host), "localhost", "127.0.0.1", "::1", *_addresses()]))
    return list(dict.fromkeys([host, "localhost", "127.0.0.1", "::1"]))


def _addresses() -> Iterator[str]:
    """Every interface's address, for a gateway usually stands in two networks; link-local ones are no use elsewhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no IPv4 address
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                yield socket.inet_ntoa(answer[20:24])
    lines = _INET6.read_text().splitlines() if _INET6.exists() else []
    for line in lines:
        address = ipaddress.IPv6Address(int(line.split()[0], 16))
        if not address.is_link_local:
            yield str(address)
