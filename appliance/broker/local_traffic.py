"""Messages between machines: which devices are attached to amqtt for their local topics, and what is kept for them.

Device and amqtt meet only where a profile grants local topics *and* the device has subscribed to some. Beyond
:attr:`AttachedLimits.devices` such subscriptions are refused; the device's own work is never touched by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from amqtt.broker import Broker

from appliance.broker.adapters import Attachment
from appliance.broker.attached import MOST_AMQTT_SESSIONS, AttachedLimits
from appliance.broker.fan_out import FanOut
from appliance.broker.frames import Will
from appliance.broker.local_half import LocalHalf
from appliance.broker.local_rights import NO_LOCAL_RIGHTS, local_rights
from appliance.broker.local_state import LocalState
from appliance.broker.outbound import Outbound
from appliance.broker.plugin import InterceptPlugin
from appliance.broker.retained import RetainedMessages
from appliance.contract.times import Clock
from appliance.services.limits import Quiet
from appliance.store.devices import Device

if TYPE_CHECKING:
    from appliance.broker.sessions import NativeSession

log = logging.getLogger(__name__)


class LocalTraffic:
    """Makes the attached halves of devices' sessions, and keeps those whose device is away."""

    def __init__(
        self, *, amqtt: Broker, plugin: InterceptPlugin, fan_out: FanOut, limits: AttachedLimits, clock: Clock
    ) -> None:
        self.limits = limits
        self.fan_out = fan_out
        self.retained = RetainedMessages(most_topics=limits.local_retained_topics, most_bytes=limits.retained_bytes)
        self.refused = 0
        """Subscriptions refused because too many devices were attached."""
        self.forgotten: Callable[[str], None] = lambda device_id: None
        """Told when the half of a device's session was given up that it could count on: it has to begin anew."""
        self._amqtt = amqtt
        self._plugin = plugin
        self._loop = asyncio.get_running_loop()
        self._states: dict[str, LocalState] = {}
        self._absent: OrderedDict[str, LocalState] = OrderedDict()
        self._attachments: set[Attachment] = set()
        self._number = 0
        self._dropped_before = 0
        self._quiet = Quiet(clock=clock)

    @property
    def dropped(self) -> int:
        """Messages that devices did not get, because they read too slowly, were away for too long, or amqtt did not
        work."""
        return self._dropped_before + sum(state.outbound.dropped for state in self._states.values())

    @property
    def full(self) -> bool:
        """Whether one more device that subscribes will be refused."""
        return len(self._states) >= self.limits.devices and not self._absent

    def __len__(self) -> int:
        """Attached devices, connected or away."""
        return len(self._states)

    # --- sessions come and go --------------------------------------------------------------------------------

    def half(self, session: NativeSession, device: Device) -> LocalHalf | None:
        """For a session that begins, or whose device's profile may have changed; ``None`` where it grants nothing."""
        rights = local_rights(device)
        if session.local is not None:
            session.local.renew(rights or NO_LOCAL_RIGHTS)
            return session.local
        if rights is not None:
            return session.open_local(self, rights)
        self.forget(device.device_id)
        return None

    def rejoin(self, half: LocalHalf) -> LocalState | None:
        """What the device left behind, if it was to last."""
        state = self._states.get(half.device_id)
        if state is None:
            return None
        if state.expiry is not None:
            state.expiry.cancel()
        self._absent.pop(half.device_id, None)
        state.half = half
        state.renew(half.rights)
        return state

    def open(self, half: LocalHalf) -> LocalState | None:
        """Attach the device to amqtt; ``None`` if too many are, and none of them is away."""
        if len(self._states) >= self.limits.devices and self._absent:
            self._give_up(next(iter(self._absent.values())))
        sessions = max(len(self._amqtt.sessions), len(self._attachments))
        if self.full or sessions >= MOST_AMQTT_SESSIONS:
            self.refused += 1
            if self._quiet.due("devices"):
                log.error(
                    "%s gets no local topics: %d devices have them already, %d at most",
                    *(half.device_id, len(self._states), self.limits.devices),
                )
            return None
        limits = self.limits
        state = LocalState(
            device_id=half.device_id,
            lasting=half.lasting,
            rights=half.rights,
            outbound=Outbound(
                most_messages=limits.device_queued_messages,
                most_bytes=limits.device_queued_bytes,
                also_taken=half.native_ids,
            ),
            plugin=self._plugin,
            most_filters=limits.filters - limits.viewer_filters,
        )
        self._number += 1
        state.attachment = Attachment(
            amqtt=self._amqtt,
            client_id=f"device/{self._number}/{half.device_id}",
            address=half.connection.address,
            on_publish=partial(state.deliver, may_receive=state.may_receive),
            on_end=partial(self._ended, state),
        )
        self._attachments.add(state.attachment)
        state.attachment.add_done_callback(self._attachments.discard)
        state.half = half
        state.outbound.resume(half.connection)
        self._states[half.device_id] = state
        return state

    def left(self, state: LocalState) -> None:
        """The device's connection has ended; what was to last stays, for a while."""
        state.half = None
        if self._states.get(state.device_id) is not state:
            return
        if state.clean:
            self._forget(state)
            return
        state.outbound.disconnected()
        state.expiry = self._loop.call_later(self.limits.session_expiry_s, self._give_up, state)
        self._absent[state.device_id] = state

    def forget(self, device_id: str) -> None:
        """The device's session has ended for good."""
        state = self._states.get(device_id)
        if state is not None:
            self._forget(state)

    def changed(self, device: Device) -> None:
        """The profile of a device that is away may grant something else."""
        state = self._states.get(device.device_id)
        if state is not None:
            state.renew(local_rights(device) or NO_LOCAL_RIGHTS)

    def _ended(self, state: LocalState) -> None:
        """amqtt has ended a session, or does not answer."""
        half, state.half = state.half, None
        self._give_up(state)
        if half is not None:
            half.end("amqtt ended its session for local topics")

    def _give_up(self, state: LocalState) -> None:
        self._forget(state)
        self.forgotten(state.device_id)

    def _forget(self, state: LocalState) -> None:
        if self._states.get(state.device_id) is not state:
            return
        del self._states[state.device_id]
        self._absent.pop(state.device_id, None)
        if state.expiry is not None:
            state.expiry.cancel()
        self._dropped_before += state.outbound.dropped
        self._plugin.unwatch(state.held)
        state.held = set()
        state.attachment.detach()

    async def stop(self) -> None:
        """End all of it; after the listener has closed the connections."""
        for state in list(self._states.values()):
            self._forget(state)
        await asyncio.gather(*(attachment.ended() for attachment in self._attachments))

    # --- messages --------------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, qos: int, taken: Callable[[], None]) -> None:
        """Pass a message on, where somebody has subscribed to it; ``taken`` is called, later, in any case."""
        if not self._plugin.watched.matches(topic):
            self._loop.call_soon(taken)
        elif self.fan_out.stalled:
            self._dropped_before += 1
            self._loop.call_soon(taken)
        else:
            self.fan_out.publish(topic, payload, qos, taken)

    def publish_will(self, will: Will) -> None:
        """A connection with a permitted will was lost."""
        if will.retain:
            self.retained.put(will.topic, will.payload, will.qos)
        self.publish(will.topic, will.payload, will.qos, lambda: None)
