"""What every logged-in connection is to its socket, and what outlives the connection of a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.broker.exchanges import Exchanges

if TYPE_CHECKING:
    from appliance.broker.connection import Connection
    from appliance.broker.sessions import NativeSession


class Session(ABC):
    """A logged-in connection. Methods are called on the event loop and never wait."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @abstractmethod
    def frame(self, header: int, data: bytes, start: int, end: int) -> None:
        """One packet: its first byte, and where its body lies in ``data``. :class:`ProtocolError` closes."""

    @abstractmethod
    def lost(self, reason: str, *, graceful: bool) -> None:
        """The connection has ended; ``graceful`` if the client sent DISCONNECT."""

    def writable(self) -> None:
        """The client reads again what it is sent."""
        self.connection.resume_reading()


@dataclass(slots=True)
class Sent:
    """A PUBLISH to the device that it has not acknowledged."""

    topic: str
    payload: bytes
    on_ack: Callable[[], None]
    earlier: bool = False
    """Whether it was written to an earlier connection and not written again since."""


@dataclass(slots=True)
class SessionState:
    """What outlives a connection where the client asked for it (clean session 0)."""

    exchanges: Exchanges
    subscriptions: dict[str, int] = field(default_factory=dict)
    in_flight: OrderedDict[int, Sent] = field(default_factory=OrderedDict)
    next_packet_id: int = 1
    generation: int = 0
    """Of the secret that its last connection used."""


class Receipt:
    """Stands for one PUBLISH until it is committed; then its acknowledgement is written."""

    __slots__ = ("ack", "behind", "echo", "session", "size")

    def __init__(self, session: NativeSession, ack: bytes, size: int, echo: tuple[str, bytes, int] | None) -> None:
        self.session = session
        self.ack = ack
        self.size = size
        self.echo = echo
        """Topic, payload and QoS for attached clients, where one of them has subscribed to it."""
        self.behind: list[bytes] | None = None
        """Acknowledgements that need no commit of their own and leave behind this one, to keep their order."""
