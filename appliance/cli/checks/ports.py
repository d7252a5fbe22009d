"""The ports: free before a start, and answering afterwards."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator

from appliance.cli.box import local_address
from appliance.cli.checks.base import Check, Finding, failed, ok, skipped
from appliance.cli.checks.surroundings import Surroundings
from appliance.cli.exits import Exit

WITHIN_S = 5.0


class PortsCheck(Check):
    """Whether they can be listened on, and where the appliance runs, whether it does."""

    name, title = "ports", "Ports"
    before_start = True

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """One after the other."""
        settings = box.settings
        doors = [
            ("MQTT_BROKER_PORT", settings.mqtt_bind, settings.mqtt_broker_port, settings.mqtt_use_tls),
            ("MQTT_PLAIN_PORT", settings.mqtt_bind, settings.mqtt_plain_port, False),
            ("PORT", settings.host, settings.port, settings.http_use_tls),
        ]
        found = []
        for name, host, port, tls in doors:
            if port:
                found += list(_answers(name, host, port, tls) if box.running else _free(name, host, port))
        ports = [port for _, _, port, _ in doors if port]
        if not ports:
            yield skipped("they are chosen at the start")
            return
        state = "answer" if box.running else "are free"
        yield from found or [ok(f"{' and '.join(map(str, ports))} {state}")]


def _free(name: str, host: str, port: int) -> Iterator[Finding]:
    reason = _why_not(host, port)
    if reason == errno.EADDRNOTAVAIL:
        text = f"{name}: this machine has no address {host}"
        yield failed(text, "name an address of this machine, or 0.0.0.0 for all", status=Exit.ADDRESS)
    elif reason is not None:
        text = f"{name}: port {port} cannot be listened on: {os.strerror(reason)}"
        yield failed(
            text, f"choose another, or end what listens there (ss -ltnp 'sport = :{port}')", status=Exit.ADDRESS
        )


def _why_not(host: str, port: int) -> int | None:
    """The error number of listening there; nothing listens, so nobody can connect by mistake."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno or errno.EINVAL
    return None


def _answers(name: str, host: str, port: int, tls: bool) -> Iterator[Finding]:
    """Whether somebody takes the connection, and speaks TLS where that is to be."""
    address = local_address(host).strip("[]")
    try:
        with socket.create_connection((address, port), WITHIN_S) as connection:
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.wrap_socket(connection, server_hostname="localhost").close()
    except OSError as error:
        why = "it does not speak TLS" if isinstance(error, ssl.SSLError) else error.strerror or "no answer in time"
        yield failed(
            f"{name}: an appliance runs, but port {port} does not answer: {why}",
            "give this command the settings that the appliance was started with; else restart it, and look at its log",
            status=Exit.ADDRESS,
        )
