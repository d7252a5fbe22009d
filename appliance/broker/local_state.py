"""What a device holds of local topics: its filters in front, and in step with them those that amqtt holds for it.

amqtt holds filters of the profile, never the device's own: for a device that asks for ``#`` the telemetry of all
devices would go through amqtt, only to be thrown away here. So most SUBSCRIBE and all UNSUBSCRIBE are answered without
amqtt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from appliance.broker.attached_state import AttachedState
from appliance.broker.frames import REFUSED_FILTER
from appliance.broker.local_rights import LocalRights
from appliance.broker.outbound import Outbound
from appliance.broker.plugin import InterceptPlugin

if TYPE_CHECKING:
    from appliance.broker.local_half import LocalHalf

log = logging.getLogger(__name__)


class LocalState(AttachedState):
    """The attached half of a device's session, which may outlive its connection. Its ``attachment`` is set at once."""

    def __init__(
        self,
        *,
        device_id: str,
        lasting: bool,
        rights: LocalRights,
        outbound: Outbound,
        plugin: InterceptPlugin,
        most_filters: int,
    ) -> None:
        super().__init__(key=("device", device_id), clean=not lasting, outbound=outbound)
        self.device_id = device_id
        self.rights = rights
        self.half: LocalHalf | None = None
        """Its connection, while it has one."""
        self.held: set[str] = set()
        """Filters of the rights that amqtt holds."""
        self._plugin = plugin
        self._most_filters = most_filters
        self._then: list[Callable[[], None]] = []

    @property
    def settling(self) -> bool:
        """Whether amqtt owes an answer: what is published now could overtake a subscription inside it."""
        return bool(self._then) or self.attachment.busy

    @property
    def pending(self) -> int:
        """How many requests wait for amqtt."""
        return len(self._then)

    def hold(self, filters: Mapping[str, int], now: int, then: Callable[[], None]) -> None:
        """Hold these with their QoS, from behind message number ``now``; ``then`` is called when amqtt is in step."""
        self.subscribe(filters, now)
        self._then.append(then)
        self._step()

    def give_up(self, filters: list[str]) -> None:
        """No longer hold these; nothing more comes by them from now on."""
        if self.unsubscribe(filters):
            self._step()

    def serves(self, topic_filter: str) -> bool:
        """Whether amqtt passes on what this filter is to receive."""
        return not self.rights.reached_by([topic_filter]).isdisjoint(self.held)

    def renew(self, rights: LocalRights) -> None:
        """Go by these rights from now on. What is no longer granted ends, and what waits of it is dropped."""
        if rights == self.rights:
            return
        self.rights = rights
        self.outbound.keep(lambda message: rights.may_receive(message.topic))
        self.unsubscribe([each for each in self.subscriptions if not rights.may_subscribe(each)])
        self._step()

    def may_receive(self, topic: str) -> bool:
        """By the rights of this moment."""
        return self.rights.may_receive(topic)

    # --- in step with amqtt ----------------------------------------------------------------------------------

    def _step(self) -> None:
        if self.attachment.busy:
            return
        wanted = self.rights.reached_by(self.subscriptions)
        missing = [each for each in sorted(wanted - self.held) if self._has_room(each)]
        surplus = sorted(self.held - wanted)
        if missing:
            self.attachment.subscribe(missing, partial(self._added, missing))
        elif surplus:
            self.held.difference_update(surplus)
            self._plugin.unwatch(surplus)
            self.attachment.unsubscribe(surplus, lambda _: self._step())
        else:
            then, self._then = self._then, []
            for call in then:
                call()

    def _has_room(self, topic_filter: str) -> bool:
        watched = self._plugin.watched
        return topic_filter in watched or len(watched) < self._most_filters

    def _added(self, filters: list[str], codes: bytes) -> None:
        taken = [each for each, code in zip(filters, codes, strict=False) if code != REFUSED_FILTER]
        self.held.update(taken)
        self._plugin.watch(taken)
        if len(taken) < len(filters):
            # should never be; going on would ask for them again and again
            log.error("amqtt refused filters of %s that its profile grants", self.device_id)
            self.rights = LocalRights(self.rights.publish, tuple(taken))
        self._step()
