"""Whether the name of Odoo's host leads anywhere."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped
from appliance.cli.checks.surroundings import Surroundings
from appliance.errors import DataFolderError

WITHIN_S = 10.0
_REMEDY = "check ODOO_BASE_URL, and the name server of this machine (resolvectl status, /etc/resolv.conf)"


class DnsCheck(Check):
    """As the appliance itself would resolve it."""

    name, title = "dns", "Name of Odoo's host"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Its addresses."""
        try:
            access = box.access
        except DataFolderError as error:
            yield skipped(str(error))
            return
        if access is None:
            yield skipped("there is no Odoo: neither is ODOO_BASE_URL set, nor was one enrolled at")
            return
        host = urlsplit(access.base_url).hostname or ""
        if _is_address(host):
            yield ok(f"{host} is an address")
            return
        found = resolve(host)
        if isinstance(found, str):
            yield failed(f"{host} cannot be resolved: {found}", _REMEDY)
        else:
            yield ok(f"{host} is {', '.join(found[:4])}")


def resolve(host: str, within_s: float = WITHIN_S) -> list[str] | str:
    """Its addresses, or why there is none. The system's resolver cannot be stopped: its thread is left behind."""
    outcome: queue.SimpleQueue[list[str] | str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            outcome.put(list(dict.fromkeys(str(each[4][0]) for each in found)))
        except (OSError, UnicodeError) as error:
            outcome.put(getattr(error, "strerror", None) or str(error))

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        return outcome.get(timeout=within_s)
    except queue.Empty:
        return f"the name server does not answer within {within_s:.0f} s"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
