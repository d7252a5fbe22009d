"""One MQTT 3.1.1 connection by paho, driven by asyncio: no thread of its own, so that a fleet fits into one process."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from firmware_sim.blocking import in_thread

CREDENTIALS_REFUSED = frozenset((134, 135))
"""CONNACK 4 and 5, as paho names them after MQTT 5."""
LONGEST_TICK_S = 5.0
CLOSE_TIMEOUT_S = 1.0


class LinkError(Exception):
    """The connection could not be made or has gone. ``refused``: the broker does not accept these credentials."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class MqttLink:
    """A connection that is opened once. Callbacks come on the event loop.

    ``on_message(topic, payload)`` for what arrives, ``on_ack(mid)`` for each PUBACK. ``acknowledges(topic)`` says
    whether what came on it gets its PUBACK.
    """

    def __init__(
        self,
        *,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
        keepalive_s: int = 60,
        trust: ssl.SSLContext | None,
        on_message: Callable[[str, bytes], None],
        on_ack: Callable[[int], None],
        acknowledges: Callable[[str], bool] = lambda topic: True,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._keepalive_s = keepalive_s
        self._on_message = on_message
        self._on_ack = on_ack
        self._acknowledges = acknowledges
        self._read_every_s: float | None = None
        self._in_callback = False
        self.is_frozen = False
        """Whether nothing goes in or out any more."""
        self._fd: int | None = None
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._subacks: dict[int, asyncio.Future[list[int]]] = {}
        self.closed: asyncio.Future[str] = self._loop.create_future()
        """Done when the connection has gone; the result is the reason."""
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(0)  # the device's own queue keeps the window
        if username is not None:
            client.username_pw_set(username, password)
        if trust is not None:
            client.tls_set_context(trust)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_message = lambda _client, _userdata, message: self._arrived(message)
        client.on_publish = lambda _client, _userdata, mid, _reason, _properties: self._went(mid)
        client.on_socket_close = lambda _client, _userdata, _socket: self._detach()
        self._client = client

    async def open(self, host: str, port: int, *, timeout_s: float = 15.0) -> None:
        """Connect and wait for CONNACK; ``LinkError`` says what went wrong."""
        try:
            async with asyncio.timeout(timeout_s):
                # name look-up and TLS handshake block inside paho
                await in_thread(self._connect_to(host, port), undo=self._drop)
                self._attach()
                await self._connack
        except TimeoutError:
            self.abort()
            raise LinkError(f"no answer within {timeout_s:g} s") from None
        except (OSError, ValueError) as error:
            self.abort()
            raise LinkError(str(error) or type(error).__name__) from None
        except BaseException:
            self.abort()
            raise

    async def subscribe(self, filters: list[str], *, timeout_s: float = 15.0) -> list[int]:
        """Subscribe with QoS 1 and wait for SUBACK; the granted QoS of each, 128 where it was refused."""
        code, mid = self._client.subscribe([(topic_filter, 1) for topic_filter in filters])
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise LinkError("connection lost")
        suback: asyncio.Future[list[int]] = self._loop.create_future()
        self._subacks[mid] = suback
        self._flush()
        try:
            await first_of(suback, self.closed, timeout_s=timeout_s)
        finally:
            del self._subacks[mid]
        if not suback.done():
            raise LinkError(self.closed.result() if self.closed.done() else "no SUBACK")
        return suback.result()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> int:
        """Send; ``on_ack`` gets the number returned here. What a lost connection leaves unsent is not repeated."""
        if self.is_frozen:
            return 0
        mid = self._client.publish(topic, payload, qos=qos).mid
        if self._client.want_write():
            self._flush()
        return mid

    def repeat(self, mid: int, topic: str, payload: bytes) -> None:
        """Send a QoS 1 packet once more as it is, with DUP, which paho does only after a new connection."""
        if self._in_callback:
            self._loop.call_soon(self.repeat, mid, topic, payload)  # behind the packet itself
            return
        sock = self._client.socket()
        if sock is None or self.is_frozen or self._client.want_write():
            return
        packet = dup_packet(mid, topic, payload)
        try:
            written = sock.send(packet)
        except OSError:  # SSLWantWriteError too
            return
        if written < len(packet):
            self.abort()  # half a packet cannot be taken back

    def freeze(self) -> None:
        """Say and hear nothing more, and leave the connection open."""
        self.is_frozen = True
        if self._timer is not None:
            self._timer.cancel()
        self._detach()

    def read_every(self, seconds: float | None) -> None:
        """Read one packet in so much time; ``None``: as they come."""
        self._read_every_s = seconds
        if self._fd is not None:
            self._loop.add_reader(self._fd, self._readable)

    def leave(self) -> None:
        """Say DISCONNECT; :attr:`closed` tells when it is done."""
        if not self.closed.done() and not self.is_frozen:
            self._client.disconnect()
            self._flush()

    async def close(self) -> None:
        """Say DISCONNECT and go."""
        if not self.closed.done() and not self.is_frozen:
            self.leave()
            await asyncio.wait({self.closed}, timeout=CLOSE_TIMEOUT_S)
        self.abort()

    def abort(self) -> None:
        """Go without a word."""
        self._drop()
        self._gone("closed by us")

    def _connect_to(self, host: str, port: int) -> Callable[[], Any]:
        return lambda: self._client.connect(host, port, self._keepalive_s)

    def _attach(self) -> None:
        sock = self._client.socket()
        if sock is None:
            raise LinkError("connection lost")
        self._fd = sock.fileno()
        self._loop.add_reader(self._fd, self._readable)
        self._tick()

    def _detach(self) -> None:
        if self._fd is None:
            return
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._writing = False
        self._fd = None

    def _drop(self) -> None:
        self._detach()
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _readable(self) -> None:
        self._client.loop_read()
        if self._read_every_s is not None and self._fd is not None:
            self._loop.remove_reader(self._fd)
            self._loop.call_later(self._read_every_s, self._read_again, self._fd)
            self._flush()
            return
        # TLS may hold more than the selector knows of
        while isinstance(sock := self._client.socket(), ssl.SSLSocket) and self._fd is not None and sock.pending():
            self._client.loop_read()
        self._flush()

    def _read_again(self, fd: int) -> None:
        if self._fd == fd:
            self._loop.add_reader(fd, self._readable)

    def _arrived(self, message: paho.MQTTMessage) -> None:
        with self._callback():
            self._on_message(message.topic, bytes(message.payload))
            if self._acknowledges(message.topic):
                self._client.ack(message.mid, message.qos)

    def _went(self, mid: int) -> None:
        with self._callback():
            self._on_ack(mid)

    @contextmanager
    def _callback(self) -> Iterator[None]:
        """What is said in one of paho's callbacks goes out behind it: its lock is not to be taken twice."""
        before, self._in_callback = self._in_callback, True
        try:
            yield
        finally:
            self._in_callback = before

    def _flush(self) -> None:
        if self._in_callback:
            return
        if self._client.want_write() and self._fd is not None:
            self._client.loop_write()
        if self._fd is None:
            return
        blocked = self._client.want_write()
        if blocked and not self._writing:
            self._loop.add_writer(self._fd, self._flush)
        elif self._writing and not blocked:
            self._loop.remove_writer(self._fd)
        self._writing = blocked

    def _tick(self) -> None:
        """Keep-alive."""
        if self.closed.done():
            return
        self._client.loop_misc()
        self._flush()
        self._timer = self._loop.call_later(min(LONGEST_TICK_S, self._keepalive_s / 4), self._tick)

    def _connected(self, _client: object, _userdata: object, _flags: object, reason: Any, _properties: object) -> None:
        if self._connack.done():
            return
        if reason.is_failure:
            refused = reason.value in CREDENTIALS_REFUSED
            self._connack.set_exception(LinkError(f"refused: {reason}", refused=refused))
        else:
            self._connack.set_result(None)

    def _subscribed(
        self, _client: object, _userdata: object, mid: int, reasons: list[Any], _properties: object
    ) -> None:
        suback = self._subacks.get(mid)
        if suback is not None and not suback.done():
            suback.set_result([reason.value for reason in reasons])

    def _disconnected(
        self, _client: object, _userdata: object, _flags: object, reason: Any, _properties: object
    ) -> None:
        self._loop.call_soon_threadsafe(self._gone, str(reason))

    def _gone(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(reason)
        if not self._connack.done():
            self._connack.set_exception(LinkError(f"connection lost: {reason}"))
            self._connack.exception()  # nobody may be waiting for it any more


def dup_packet(mid: int, topic: str, payload: bytes) -> bytes:
    """A QoS 1 PUBLISH with DUP (MQTT 3.1.1 §3.3)."""
    name = topic.encode()
    body = struct.pack("!H", len(name)) + name + struct.pack("!H", mid) + payload
    length, encoded = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (128 if length else 0))
        if not length:
            return b"\x3a" + bytes(encoded) + body


async def first_of(*futures: asyncio.Future[Any], timeout_s: float) -> None:
    """Wait until one is done, or the time is over; they stay as they are."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
