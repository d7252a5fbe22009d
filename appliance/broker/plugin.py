"""The amqtt plugin, and the one authority of the broker: who may connect, and what each client may publish and receive.

amqtt loads it from its configuration by its dotted path; the listener asks that same instance. Without it nobody is let
in and nothing is intercepted. It extends ``BaseAuthPlugin`` and never ``BaseTopicPlugin``: topic filtering makes amqtt
suspend while it walks its subscriptions, and messages get lost. The listener checks SUBSCRIBE and outbound PUBLISH here
instead.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqtt.contexts import BaseContext
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from appliance.broker.filter_tree import FilterTree
from appliance.broker.frames import BAD_CLIENT_ID, BAD_CREDENTIALS, NOT_AUTHORIZED, Connect
from appliance.contract.topics import (
    PLACEHOLDER,
    TEST_PREFIX,
    TopicTemplates,
    filter_matches,
    filters_overlap,
    is_device_id,
    is_serial,
)
from appliance.services.credentials import Credentials
from appliance.store.devices import Device, DeviceRegistry

Interceptor = Callable[[str, bytes, int, object], None]
"""Takes what a device published on an intercepted topic: device id, payload, received at (ms), receipt.

Whoever takes it must hand the receipt to the store, which gives it back after the commit.
"""


@dataclass(frozen=True, slots=True)
class Interceptors:
    """Where the intercepted families go."""

    telemetry: Interceptor
    command_response: Interceptor
    ota_status: Interceptor
    config_request: Interceptor


@dataclass(frozen=True, slots=True)
class Rights:
    """What the plugin decides by; handed to it through amqtt's configuration."""

    registry: DeviceRegistry
    credentials: Credentials
    templates: TopicTemplates
    interceptors: Interceptors
    viewers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Passwords of the read-only accounts by name."""


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """A paired device; ``generation`` is that of the secret it used."""

    device: Device
    generation: int


@dataclass(frozen=True, slots=True)
class UnpairedLogin:
    """A device that has not been paired yet, known by its serial number alone."""

    serial: str


@dataclass(frozen=True, slots=True)
class ViewerLogin:
    """A named read-only account."""

    name: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not let in: the CONNACK return code, and the reason for the log."""

    code: int
    reason: str


Verdict = DeviceLogin | UnpairedLogin | ViewerLogin | Refusal


class Route:
    """One topic that a device may publish to, and who takes what it publishes there."""

    __slots__ = ("accept", "topic", "visible", "watched", "watched_version")

    def __init__(self, topic: str, accept: Interceptor, *, visible: bool) -> None:
        self.topic = topic
        self.accept = accept
        self.visible = visible
        """Whether viewers may see what is published here: telemetry, and nothing else."""
        self.watched = False
        self.watched_version = -1


class InterceptPlugin(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Rights and interception. See the module's text."""

    @dataclass
    class Config:
        """What amqtt hands to the plugin."""

        rights: Rights

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self.rights: Rights = self.config.rights
        self.watch_version = 0
        """Counted up whenever the set of filters changes that attached clients hold."""
        self._watched = FilterTree()
        self._telemetry_filters: frozenset[str] | None = None
        registry = self.rights.registry
        registry.changed.append(self._devices_changed)
        registry.removed.append(self._devices_changed)

    async def authenticate(self, *, session: Session) -> bool:
        """amqtt's question. Only the listener attaches sessions, and it has asked :meth:`identify` before.

        Also for a client that has gone meanwhile: refusing it would leak the session.
        """
        return True

    # --- connecting ------------------------------------------------------------------------------------------

    def identify(self, connect: Connect) -> Verdict:
        """Who a connection is (contract, "Who a connection is")."""
        if connect.username is None:
            if not is_serial(connect.client_id):
                return Refusal(BAD_CLIENT_ID, "no user name, and a client id that is no serial number")
            return UnpairedLogin(connect.client_id)
        if connect.username in self.rights.viewers:
            return self._identify_viewer(connect)
        return self._identify_device(connect)

    def _identify_viewer(self, connect: Connect) -> Verdict:
        name = connect.username or ""
        if not hmac.compare_digest(self.rights.viewers[name].encode(), connect.password or b""):
            return Refusal(BAD_CREDENTIALS, f"wrong password for the viewer account {name!r}")
        if not connect.client_id and not connect.clean_session:
            return Refusal(BAD_CLIENT_ID, "an empty client id needs a clean session")
        return ViewerLogin(name)

    def _identify_device(self, connect: Connect) -> Verdict:
        device_id = connect.username or ""
        device = self.rights.registry.get(device_id)
        password = (connect.password or b"").decode("utf-8", "replace")
        if device is None:
            return Refusal(BAD_CREDENTIALS, f"unknown user name {device_id[:64]!r}")
        generation = self.rights.credentials.accepted_generation(device, password)
        if generation is None:
            return Refusal(BAD_CREDENTIALS, f"wrong password for the device {device_id}")
        if connect.client_id != device_id or not is_device_id(connect.client_id):
            return Refusal(BAD_CLIENT_ID, f"the client id of the device {device_id} must be its device id")
        if not device.enabled:
            return Refusal(NOT_AUTHORIZED, f"the device {device_id} is switched off")
        return DeviceLogin(device, generation)

    # --- what a device may do --------------------------------------------------------------------------------

    def routes(self, device: Device) -> dict[bytes, Route]:
        """The topics this device may publish to, as they stand in the packet; those it had before among them."""
        to = self.rights.interceptors
        return {
            topic.encode(): Route(topic, accept, visible=topic == topics.telemetry)
            # the present ones last: where a name has changed its meaning, theirs counts
            for topics in (*device.earlier, device.topics)
            for topic, accept in (
                (topics.telemetry, to.telemetry),
                (topics.command_response, to.command_response),
                (topics.ota_status, to.ota_status),
                (topics.config_request, to.config_request),
            )
        }

    @staticmethod
    def granted(topic_filter: str, receivable: Iterable[str]) -> bool:
        """Whether a device gets this filter: it must match at least one of its own topics."""
        return any(filter_matches(topic_filter, topic) for topic in receivable)

    # --- what a viewer may do --------------------------------------------------------------------------------

    def viewer_may_subscribe(self, topic_filter: str) -> bool:
        """Viewers subscribe to telemetry of all devices, and below ``test/``."""
        if filters_overlap(topic_filter, TEST_PREFIX + "#"):
            return True
        return any(filters_overlap(topic_filter, each) for each in self._telemetry())

    def viewer_may_receive(self, topic: str) -> bool:
        """The other side of :meth:`viewer_may_subscribe`: a wide filter shows nothing more than a narrow one."""
        return topic.startswith(TEST_PREFIX) or any(filter_matches(each, topic) for each in self._telemetry())

    def _telemetry(self) -> frozenset[str]:
        """Filters for the telemetry of all devices, few where they share templates; worked out when they change."""
        if self._telemetry_filters is None:
            self._telemetry_filters = frozenset(
                "/".join("+" if level == device.device_id else level for level in topics.telemetry.split("/"))
                for device in self.rights.registry.all()
                for topics in (device.topics, *device.earlier)
            ) | {self.rights.templates.telemetry.replace(PLACEHOLDER, "+")}
        return self._telemetry_filters

    def _devices_changed(self, _: Device) -> None:
        self._telemetry_filters = None

    @staticmethod
    def viewer_may_publish(topic: str) -> bool:
        """Viewers publish below ``test/`` only."""
        return topic.startswith(TEST_PREFIX)

    # --- fan-out ---------------------------------------------------------------------------------------------

    def watch(self, filters: Iterable[str]) -> None:
        """An attached client holds these filters from now on."""
        if sum([self._watched.add(each) for each in filters]):
            self.watch_version += 1

    def unwatch(self, filters: Iterable[str]) -> None:
        """An attached client no longer holds these filters."""
        if sum([self._watched.discard(each) for each in filters]):
            self.watch_version += 1

    @property
    def watched(self) -> FilterTree:
        """The filters that attached clients hold; to look at."""
        return self._watched

    def is_watched(self, route: Route) -> bool:
        """Whether an attached client is to see what is published here; remembered until subscriptions change."""
        if route.watched_version != self.watch_version:
            route.watched_version = self.watch_version
            route.watched = route.visible and self._watched.matches(route.topic)
        return route.watched


def plugin_configuration(rights: Rights) -> dict[str, Any]:
    """The plugin's entry in amqtt's configuration."""
    return {f"{InterceptPlugin.__module__}.{InterceptPlugin.__qualname__}": {"rights": rights}}
