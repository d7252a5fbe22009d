"""What the listener is given: its bounds, where it listens, and whom it tells."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.broker.session import Receipt


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the listener."""

    payload_bytes: int = 262_144
    connections: int = 10_000
    unpaired: int = 1000
    unpaired_per_address: int = 20
    viewers: int = 50
    send_buffer_bytes: int = 256 * 1024
    messages_per_s: int = 5000
    """Of one device; one that sends more is not read for the rest of the second, and TCP pushes back."""
    unacked_bytes: int = 64 << 20
    """Payloads of all clients that wait for their commit; beyond it nobody who sends is read on."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen; port 0 takes a free one; with ``tls`` it speaks TLS."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class PassedOn:
    """How it stands with what is passed on to viewers and between machines; counts are since the start."""

    viewers: int
    """Sessions of viewers, connected or away."""
    machines: int
    """Sessions of devices with local subscriptions, connected or away."""
    waiting: int
    """Messages on their way into amqtt."""
    dropped: int
    """Messages that somebody who had subscribed did not get."""
    publishes_refused: int
    """What viewers published where they may not; that of devices is in the ledger."""
    subscriptions_refused: int
    """Local subscriptions of devices for which there was no room."""
    stalled: bool
    """Whether amqtt does not keep up, or does not work."""
    full: bool
    """Whether the next device that subscribes to local topics will be refused."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom the listener tells; all are called on the event loop and must not wait."""

    in_order: Callable[[Receipt], None]
    """Send a receipt through the store's queue, behind what waits there."""
    refused: Callable[[str, str, str], None]
    """A publish was dropped: device id, reason, topic."""
    pair: Callable[[str, bytes, str, Callable[[bytes], None]], None]
    """An unpaired device asks: serial number, payload, address, reply."""
    logged_in: Callable[[str, int], None]
    """A device has logged in: device id, generation of its secret."""
    ready: Callable[[str, str], None]
    """A device can be sent what waits for it on one of its topics, to which it has subscribed: device id, and the
    topic's name (``command``, ``ota_notify``, ``config_response``). May be told again."""
    gone: Callable[[str], None]
    """A device's connection has ended."""
    fan_out: Callable[[str, bytes, int], None] = lambda topic, payload, qos: None
    """A committed publish that an attached client has subscribed to: topic, payload, QoS."""
