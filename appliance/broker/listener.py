"""The sockets, who is logged in on them, and the way of every packet that is not amqtt's.

Everything is checked here before anybody else hears of a connection: its login, its limits, its rights.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from appliance.broker import frames
from appliance.broker.admission import Admission
from appliance.broker.attached_session import AttachedSession
from appliance.broker.connection import Connection
from appliance.broker.doors import Doors
from appliance.broker.exchanges import Exchanges
from appliance.broker.frames import Connect, ProtocolError, Will
from appliance.broker.local_half import LocalHalf
from appliance.broker.local_traffic import LocalTraffic
from appliance.broker.plugin import (
    DeviceLogin,
    InterceptPlugin,
    Refusal,
    Route,
    UnpairedLogin,
    Verdict,
    ViewerLogin,
)
from appliance.broker.seams import Endpoint, Hooks, Limits
from appliance.broker.session import Receipt, Session, SessionState
from appliance.broker.sessions import NativeSession
from appliance.broker.states import SessionStates
from appliance.broker.unpaired import UnpairedSession
from appliance.contract.presence import OfflineCode
from appliance.contract.times import Clock
from appliance.services.limits import Quiet, address_key
from appliance.services.presence import PresenceService
from appliance.store.devices import Device
from appliance.store.packet_ids import PacketIds

__all__ = ["Endpoint", "Hooks", "Limits", "Listener"]

log = logging.getLogger(__name__)

CONNECT_WITHIN_S = 10.0
KEEP_ALIVE_FACTOR = 1.5
UNPAIRED_LIFETIME_S = 60.0
CLOSING_S = 10.0
SWEEP_S = 1.0
MOST_NOT_LOGGED_IN = 8192
"""A whole fleet that comes back at once is accepted before the first of it is read."""
CROWDED = 2000
"""With more that have not logged in, a CONNECT must come as good as whole."""


class Listener:
    """Accepts connections and keeps who is who. ``plugin`` is the instance that amqtt loaded, or ``None``: then
    nobody is let in."""

    def __init__(
        self,
        *,
        plugin: InterceptPlugin | None,
        hooks: Hooks,
        presence: PresenceService,
        clock: Clock,
        limits: Limits,
        packet_ids: PacketIds,
        attach: Callable[[Connection, Connect, ViewerLogin], AttachedSession] | None = None,
        is_attached: Callable[[str, str], bool] = lambda account, client_id: False,
        local: LocalTraffic | None = None,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self._plugin = plugin
        self._hooks = hooks
        self._presence = presence
        presence.silence_s = self.silence_s
        self._attach = attach
        self._is_attached = is_attached
        self._local = local
        if local is not None:
            local.forgotten = self._forget
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self.call_soon = self._loop.call_soon
        self.refused = hooks.refused
        self.in_order = hooks.in_order
        self.ready = hooks.ready
        self.config_request_topic = plugin.rights.templates.config_request if plugin else ""
        self._doors = Doors(lambda: Connection(self))
        self._not_logged_in: OrderedDict[Connection, None] = OrderedDict()
        self._connections: set[Connection] = set()
        self._closing: dict[Connection, float] = {}
        self._devices: dict[str, NativeSession] = {}
        self._states = SessionStates(packet_ids)
        self._admission = Admission(plugin=plugin, limits=limits, clock=clock)
        self._quiet = Quiet(clock=clock)
        self.unacked_bytes = 0
        """Payloads that wait for their commit; kept by the sessions."""
        self._swept_at = self.time()
        self.accepted = 0
        """Connections accepted since the start, for metrics."""

    # --- starting and stopping -------------------------------------------------------------------------------

    async def start(self, endpoints: Sequence[Endpoint]) -> list[int]:
        """Listen; returns the ports in the same order. ``OSError`` if a port cannot be had."""
        return [await self._doors.open(endpoint) for endpoint in endpoints]

    async def run(self) -> None:
        """Once a second end what has been silent, slow or half-open for too long; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.sweep()
                self._swept_at = self.time()
            except Exception:
                # a fault of ours with one client must not end all others
                log.exception("a connection could not be ended as it should")

    async def stop(self) -> None:
        """Stop listening and close every connection; what was committed has been acknowledged by then."""
        await self._doors.close()
        for connection in [*self._connections, *self._not_logged_in]:
            connection.stop()
        await asyncio.sleep(0)
        for connection in list(self._closing):
            connection.cut()
        await self._doors.wait_closed()

    def stuck(self, round_s: float) -> str | None:
        """Whether the round has not come by for so long, or a door does not open for who has waited since the last
        time this was asked."""
        if self.time() - self._swept_at > round_s:
            return f"the listener's round has not come by for {self.time() - self._swept_at:.0f} s"
        return self._doors.shut()

    def sweep(self) -> None:
        """See :meth:`run`."""
        now = self.time()
        self._doors.sweep()
        for session in self._devices.values():
            session.next_second()
        for connection in list(self._not_logged_in):
            if now - connection.born_at < CONNECT_WITHIN_S:
                break
            connection.abort("no CONNECT in time")
        for connection in list(self._connections):
            connection.end_if_due(now)
        for connection, since in list(self._closing.items()):
            if now - since > CLOSING_S:
                connection.cut()

    # --- connections come and go -----------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """Whether so many have not logged in that none of them may take much memory."""
        return len(self._not_logged_in) > CROWDED

    def opened(self, connection: Connection) -> None:
        """A socket was accepted. Where too many have not logged in, the oldest of them has to go."""
        self.accepted += 1
        self._not_logged_in[connection] = None
        if len(self._not_logged_in) > MOST_NOT_LOGGED_IN:
            next(iter(self._not_logged_in)).abort("too many connections that have not logged in")

    def connect(self, connection: Connection, data: bytes, start: int, end: int) -> None:
        """The first packet of a connection: decide who it is and answer."""
        connect = frames.parse_connect(data, start, end)
        verdict = self._admission.identify(
            connect,
            connection.address,
            connections=len(self._connections),
            takes_over=lambda verdict: self._takes_over(verdict, connect.client_id),
        )
        if isinstance(verdict, Refusal):
            if self._quiet.due(connection.address):
                log.warning("connection from %s refused: %s", connection.address, verdict.reason)
            connection.write(frames.connack(verdict.code))
            connection.close(verdict.reason)
            return
        del self._not_logged_in[connection]
        self._connections.add(connection)
        if isinstance(verdict, DeviceLogin):
            self._device_login(connection, connect, verdict)
        elif isinstance(verdict, UnpairedLogin):
            session = UnpairedSession(connection, self, verdict)
            self._admission.unpaired[session] = address_key(connection.address)
            connection.logged_in(session, lifetime_s=UNPAIRED_LIFETIME_S)
            connection.write(frames.connack(frames.ACCEPTED))
        else:
            self._viewer_login(connection, connect, verdict)

    def _takes_over(self, verdict: Verdict, client_id: str) -> bool:
        if isinstance(verdict, ViewerLogin):
            return self._is_attached(verdict.name, client_id)
        return isinstance(verdict, DeviceLogin) and verdict.device.device_id in self._devices

    def _device_login(self, connection: Connection, connect: Connect, login: DeviceLogin) -> None:
        device_id = login.device.device_id
        before = self._devices.get(device_id)
        if before is not None:
            before.connection.close("another connection took over", OfflineCode.TAKEN_OVER)
        if connect.clean_session:
            self._forget(device_id)
            state, present = SessionState(Exchanges(device_id, None)), False
        else:
            state, present = self._states.begin(device_id)
        session = NativeSession(connection, self, login, state, lasting=not connect.clean_session)
        self._devices[device_id] = session
        will = self._own_will(session, connect.will)
        connection.logged_in(session, keep_alive_s=connect.keep_alive_s * KEEP_ALIVE_FACTOR, will=will)
        connection.allow(self.limits.payload_bytes)
        # in MQTT 3.1 that byte of CONNACK is reserved
        connection.write(frames.connack(frames.ACCEPTED, session_present=present and connect.level > 3))
        self._presence.connected(device_id, connection.address, takeover=before is not None)
        self._hooks.logged_in(device_id, login.generation)
        if present:
            session.resume()

    def _own_will(self, session: NativeSession, will: Will | None) -> Will | None:
        if will is not None and not session.permits_will(will.topic):
            self.refused(session.device_id, "a will that is not on a topic of this device", will.topic)
            return None
        return will

    def _viewer_login(self, connection: Connection, connect: Connect, login: ViewerLogin) -> None:
        if self._attach is None:
            raise ProtocolError("viewers are not served")
        session = self._attach(connection, connect, login)
        self._admission.viewers += 1
        will = connect.will if connect.will is not None and session.permits_will(connect.will) else None
        connection.logged_in(session, keep_alive_s=connect.keep_alive_s * KEEP_ALIVE_FACTOR, will=will)
        connection.allow(self.limits.payload_bytes)

    def closed(self, connection: Connection, session: Session | None, will: Will | None, reason: str) -> None:
        """A connection has ended, its socket may still be writing its last bytes."""
        self._closing[connection] = self.time()
        self._not_logged_in.pop(connection, None)
        self._connections.discard(connection)
        if isinstance(session, NativeSession):
            if connection.ended_by is not OfflineCode.TAKEN_OVER:
                # takeovers are told by the presence service, who sees when there are too many
                log.info("%s disconnected: %s", session.device_id, reason)
            if will is not None:
                try:
                    session.publish_will(will)
                except Exception:
                    log.exception("the will of %s could not be taken", session.device_id)
        elif isinstance(session, AttachedSession):
            self._admission.viewers -= 1
            if will is not None:
                session.publish_will(will)
        elif session is None and self._quiet.due(connection.address):
            log.info("connection from %s ended before its login: %s", connection.address, reason)

    def failed(self, connection: Connection) -> None:
        """Handling what a connection sent raised something unexpected; called while that is handled."""
        if self._quiet.due(f"error {connection.address}"):
            log.exception("what %s sent could not be handled", connection.address)
        connection.abort("an unexpected error; the appliance's log has it", OfflineCode.APPLIANCE_ERROR)

    def gone(self, connection: Connection) -> None:
        """A connection's socket is closed."""
        self._closing.pop(connection, None)

    def device_lost(self, session: NativeSession, reason: str) -> None:
        """A device's session has ended."""
        if self._devices.get(session.device_id) is not session:
            return
        del self._devices[session.device_id]
        silence_s = self.time() - session.connection.last_received_at
        self._presence.disconnected(session.device_id, reason, session.connection.ended_by, silence_s=silence_s)
        self._hooks.gone(session.device_id)

    def silence_s(self, device_id: str) -> float | None:
        """For how many seconds nothing has come from a connected device; ``None`` if it is not connected."""
        session = self._devices.get(device_id)
        return None if session is None else self.time() - session.connection.last_received_at

    def unpaired_lost(self, session: UnpairedSession) -> None:
        """An unpaired connection has ended."""
        self._admission.unpaired.pop(session, None)

    # --- for sessions ----------------------------------------------------------------------------------------

    def routes(self, device: Device) -> dict[bytes, Route]:
        """What the device may publish to; nothing without the plugin."""
        return self._plugin.routes(device) if self._plugin else {}

    def local_half(self, session: NativeSession, device: Device) -> LocalHalf | None:
        """What the device does with local topics, where its profile grants any."""
        return None if self._local is None else self._local.half(session, device)

    def granted(self, topic_filter: str, receivable: Sequence[str]) -> bool:
        """Whether a device gets this subscription."""
        return self._plugin is not None and self._plugin.granted(topic_filter, receivable)

    def is_watched(self, route: Route) -> bool:
        """Whether an attached client has subscribed to the route's topic."""
        return self._plugin is not None and self._plugin.is_watched(route)

    def answer_topic(self, serial: str) -> str:
        """Where the configuration answer for this serial number goes."""
        return self._plugin.rights.templates.answer_topic(serial) if self._plugin else ""

    def ask(self, session: UnpairedSession, payload: bytes) -> None:
        """An unpaired device asks for its configuration."""
        self._hooks.pair(session.serial, payload, session.connection.address, session.reply)

    # --- for the services ------------------------------------------------------------------------------------

    def acknowledge(self, receipts: Sequence[Receipt]) -> None:
        """These publishes are on disk: write what their clients wait for, each client's in its order."""
        touched: dict[NativeSession, None] = {}
        for receipt in receipts:
            session = receipt.session
            session.committed(receipt)
            touched[session] = None
            if receipt.echo is not None:
                self._hooks.fan_out(*receipt.echo)
        for session in touched:
            session.flush()

    def withhold(self, receipts: Sequence[Receipt]) -> None:
        """These publishes could not be stored although the disk works: end their connections, unacknowledged."""
        for receipt in receipts:
            log.error("a message of %s could not be stored and is not acknowledged", receipt.session.device_id)
            receipt.session.withheld(receipt)

    def deliver(
        self, device_id: str, topic: str, payload: bytes, *, redelivery: bool, on_ack: Callable[[], None]
    ) -> bool:
        """Publish to a device's live session; ``False`` if it is away, has not subscribed, or does not read."""
        session = self._devices.get(device_id)
        return session is not None and session.send(topic, payload, redelivery=redelivery, on_ack=on_ack)

    def device_changed(self, device: Device) -> None:
        """A device was paired anew, switched off, or got other topics."""
        state = self._states.get(device.device_id)
        if state is not None and not device.accepts(state.generation):
            # the device id may be another machine's now, and that one has subscribed to nothing and sent nothing
            self._forget(device.device_id)
        session = self._devices.get(device.device_id)
        if session is None:
            if state is None and not device.login_generation:
                self._states.forget(device.device_id)  # what was left from before a restart
            if self._local is not None:
                self._local.changed(device)
            return
        if not device.enabled or not device.accepts(session.generation):
            self.revoke(device.device_id)
        else:
            session.renew(DeviceLogin(device, session.generation))

    def revoke(self, device_id: str) -> None:
        """End a device's connection and forget its session: it is no longer paired or no longer allowed."""
        session = self._devices.get(device_id)
        if session is not None:
            session.connection.close("its access was revoked", OfflineCode.REVOKED)
        self._forget(device_id)

    def _forget(self, device_id: str) -> None:
        """A device's session has ended for good, whatever it was to get later."""
        self._states.forget(device_id)
        if self._local is not None:
            self._local.forget(device_id)

    @property
    def connections(self) -> int:
        """Logged-in connections of all kinds."""
        return len(self._connections)
