"""The settings that the demo's appliance runs with: the caller's where they are set, else free ports and a folder of
its own, reachable from this machine only."""

from __future__ import annotations

import os
import random
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 10_240
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
OFF = frozenset(("0", "false", "f", "no", "n", "off"))
EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1", "[::]": "::1"}  # noqa: S104 - recognised, not bound


class Surroundings:
    """``environment`` holds what the appliance is told. ``given`` is the caller's environment."""

    def __init__(self, folder: Path, given: Mapping[str, str] | None = None) -> None:
        given = os.environ if given is None else given
        ports: set[int] = set()

        def setting(name: str, default: str) -> str:
            return given.get(name) or default

        self.odoo_url = given.get("ODOO_BASE_URL", "").rstrip("/")
        """The caller's own, or empty."""
        self.enrols_at = ""
        """The address of an Odoo that the appliance is enrolled at by a code."""
        self.is_fresh = not self.odoo_url and not given.get("IIOT_DATA_DIR")
        """Whether neither Odoo nor the appliance can remember an earlier demo."""
        data = Path(setting("IIOT_DATA_DIR", str(folder / "data"))).expanduser().absolute()
        self.environment = {
            "MQTT_BIND": setting("MQTT_BIND", LOOPBACK),
            "MQTT_BROKER_PORT": setting("MQTT_BROKER_PORT", "") or str(free_port(ports)),
            "MQTT_USE_TLS": setting("MQTT_USE_TLS", "True"),
            "MQTT_BROKER_USERNAME": setting("MQTT_BROKER_USERNAME", "viewer"),
            "MQTT_BROKER_PASSWORD": setting("MQTT_BROKER_PASSWORD", secrets.token_urlsafe(9)),
            "HOST": setting("HOST", LOOPBACK),
            "PORT": setting("PORT", "") or str(free_port(ports)),
            "HTTP_USE_TLS": setting("HTTP_USE_TLS", "True"),
            "IIOT_ADVERTISED_HOST": setting("IIOT_ADVERTISED_HOST", LOOPBACK),
            "IIOT_DATA_DIR": str(data),
            "ODOO_BASE_URL": self.odoo_url,
            "ODOO_API_KEY": setting("ODOO_API_KEY", secrets.token_urlsafe(32)),
        }
        self._api_key = given.get("IIOT_API_KEY", "")
        self.key_file = data / "api_key"
        self.ca_file = folder / "ca.pem"
        self.odoo_file = (folder if self.is_fresh else data) / "stand-in.db"
        """Beside the appliance's data, so that both remember the same."""
        self.mqtt_host = _reachable(self.environment["MQTT_BIND"])
        self.mqtt_port = self.environment["MQTT_BROKER_PORT"]
        self.mqtt_tls = self.environment["MQTT_USE_TLS"].lower() not in OFF
        self.http_tls = self.environment["HTTP_USE_TLS"].lower() not in OFF
        host = _reachable(self.environment["HOST"])
        scheme = "https" if self.http_tls else "http"
        self.api = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.environment['PORT']}"

    def api_key(self) -> str:
        """Of the appliance's API, once it runs."""
        return self._api_key or self.key_file.read_text("utf-8").strip()

    def key_for_a_shell(self) -> str:
        """How a shell on this machine gets it."""
        return '"$IIOT_API_KEY"' if self._api_key else f"$(cat {self.key_file})"


def free_port(taken: set[int]) -> int:
    """A port that nobody listens on now, and not in ``taken``, which it joins.

    Below those that outgoing connections use: a device that tries to reconnect while nothing listens could otherwise
    be given that very port as its own, and be connected to itself.
    """
    try:
        highest = int(EPHEMERAL.read_text("ascii").split()[0])
    except (OSError, ValueError):
        highest = 32_768
    while True:
        port = random.randrange(LOWEST_PORT, highest) if highest > LOWEST_PORT + 1000 else 0
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            port = int(probe.getsockname()[1])
        if port not in taken:
            taken.add(port)
            return port


def _reachable(bind: str) -> str:
    """An address of this machine at which something bound to ``bind`` answers."""
    return EVERYWHERE.get(bind, bind)
