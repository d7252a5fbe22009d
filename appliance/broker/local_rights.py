"""What a device may say to other machines and hear from them: the local topics that its profile grants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.contract.topics import filter_matches, filters_overlap
from appliance.store.devices import Device


@dataclass(frozen=True, slots=True)
class LocalRights:
    """Filters of one device. The registry has seen to it that they meet no intercepted topic of anybody."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def may_publish(self, topic: str) -> bool:
        """Whether it may publish to this topic name."""
        return any(filter_matches(each, topic) for each in self.publish)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether a filter could receive anything that is granted; it will receive nothing more."""
        return any(filters_overlap(each, topic_filter) for each in self.subscribe)

    def may_receive(self, topic: str) -> bool:
        """Whether it may be sent what is published there: a wide filter shows nothing more than a narrow one."""
        return any(filter_matches(each, topic) for each in self.subscribe)

    def reached_by(self, filters: Iterable[str]) -> set[str]:
        """Those of the granted filters through which these receive anything."""
        wanted = list(filters)
        return {each for each in self.subscribe if any(filters_overlap(each, other) for other in wanted)}


NO_LOCAL_RIGHTS = LocalRights()


def local_rights(device: Device) -> LocalRights | None:
    """The rights of this device; ``None`` without local topics."""
    local = device.config.local()
    if local is None:
        return None
    filters = local.expand(device.device_id)
    return LocalRights(tuple(filters["publish"]), tuple(filters["subscribe"]))
