"""A device as its firmware would be written: pairs, connects, publishes, obeys, comes back; knows the contract only."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from pydantic_core import to_json

from appliance.contract.device import ConfigOk, ConfigRequest, encode
from appliance.contract.times import Clock, rfc3339
from firmware_sim import trust
from firmware_sim.backoff import Backoff
from firmware_sim.credentials import Credentials, CredentialStore
from firmware_sim.link import LinkError, MqttLink
from firmware_sim.pairing import Contact, Label, pair, parse_answer
from firmware_sim.record import Recorder
from firmware_sim.send_queue import Outgoing, SendQueue

REMEMBERED_COMMANDS = 100
STABLE_AFTER_S = 10.0


class Signal(Protocol):
    """What is measured."""

    def sample(self) -> dict[str, Any]:
        """One measurement as a JSON object."""


class Device:
    """One device. ``interval_s`` overrides what its configuration says; 0 means as fast as PUBACKs allow.

    ``log`` gets a line for people whenever something happens to it.
    """

    def __init__(
        self,
        *,
        label: Label,
        contact: Contact,
        store: CredentialStore,
        recorder: Recorder,
        signal: Signal,
        random: Random,
        connecting: asyncio.Semaphore,
        clock: Clock | None = None,
        window: int = 1,
        queue_limit: int = 1000,
        interval_s: float | None = None,
        keepalive_s: int = 60,
        longest_backoff_s: float = 30.0,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.serial = label.serial
        self._label = label
        self._contact = contact
        self._store = store
        self._recorder = recorder
        self._signal = signal
        self._random = random
        self._connecting = connecting
        self._clock = clock or Clock()
        self._interval_s = interval_s
        self._keepalive_s = keepalive_s
        self._log = log
        self._queue = SendQueue(window=window, limit=queue_limit)
        self._backoff = Backoff(random=random, longest_s=longest_backoff_s)
        self._boot = f"{random.getrandbits(32):08x}"
        self._readings = 0
        self._seen_commands: deque[str] = deque(maxlen=REMEMBERED_COMMANDS)
        self._credentials: Credentials | None = None
        self._link: MqttLink | None = None
        self._publishing = True
        self._idle = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.ready = asyncio.Event()
        """Set once the device has been connected and subscribed for the first time."""

    @property
    def device_id(self) -> str:
        """Its device id; the serial number until it is paired."""
        return self._credentials.device_id if self._credentials else self.serial

    @property
    def is_paired(self) -> bool:
        """Whether it has credentials."""
        return self._credentials is not None

    @property
    def is_connected(self) -> bool:
        """Whether it is connected and subscribed now."""
        return self._link is not None

    async def run(self) -> None:
        """Live until cancelled. ``PairingRefusedError`` if the appliance does not want it."""
        self._credentials = self._store.load()
        asks_for_configuration = self._credentials is not None
        if self._credentials is None:
            self._credentials = await pair(
                label=self._label,
                contact=self._contact,
                store=self._store,
                random=self._random,
                connecting=self._connecting,
                backoff=self._backoff,
            )
            self._recorder.note("paired", self.device_id, serial=self.serial)
            self._log(f"paired as {self.device_id}")
        self._schedule(self._random.random() * self._beat_s())
        try:
            await self._stay_connected(asks_for_configuration)
        finally:
            self._publishing = False
            self._schedule(0)

    def stop_publishing(self) -> None:
        """Take no more readings; what waits is still sent."""
        self._publishing = False
        self._schedule(0)
        self._note_idle()

    async def drained(self) -> None:
        """Wait until everything said has been acknowledged; only after :meth:`stop_publishing`."""
        await self._idle.wait()

    async def _stay_connected(self, asks_for_configuration: bool) -> None:
        while True:
            try:
                await self._session(asks_for_configuration)
                asks_for_configuration = False
            except LinkError as error:
                self._log(f"no connection: {error}")
            await asyncio.sleep(self._backoff.next_s())

    async def _session(self, asks_for_configuration: bool) -> None:
        """One connection from CONNECT to its end."""
        credentials = self._current()
        topics, access = credentials.device_topics, credentials.mqtt
        if access.tls and not access.ca_pem:
            raise LinkError("the answer asks for TLS, and this device has no authority to trust")
        link = MqttLink(
            client_id=access.client_id,
            username=access.username,
            password=credentials.password,
            keepalive_s=self._keepalive_s,
            trust=trust.context(access.ca_pem) if access.tls and access.ca_pem else None,
            on_message=self._receive,
            on_ack=self._acknowledged,
        )
        async with self._connecting:
            await link.open(access.host, access.port)
        why, up_since = "stopped", None
        try:
            granted = await link.subscribe(list(topics.receivable()))
            if max(granted) > 2:
                raise LinkError("a subscription to an own topic was refused")
            self._recorder.note("up", self.device_id)
            self._log("connected")
            self._link, up_since = link, self._clock.monotonic()
            if asks_for_configuration:
                self._ask_for_configuration(link)
            self.ready.set()
            self._pump()
            why = await asyncio.shield(link.closed)
        finally:
            self._link = None
            self._queue.connection_lost()
            if up_since is not None:
                if self._clock.monotonic() - up_since > STABLE_AFTER_S:
                    self._backoff.reset()
                self._recorder.note("down", self.device_id, why=why)
                self._log(f"disconnected: {why}")
            await link.close()

    def _ask_for_configuration(self, link: MqttLink) -> None:
        request = ConfigRequest(
            serial=self.serial, firmware_version=self._label.firmware_version, hardware=self._label.hardware
        )
        link.publish(self._current().device_topics.config_request, encode(request))

    def _schedule(self, delay_s: float) -> None:
        """Take readings in the configured rhythm from then on. A timer, not a task: it fires for every reading."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._clock.monotonic() + delay_s
        if self._publishing and self._interval_s != 0:  # at 0, _pump takes the readings
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._beat)

    def _beat(self) -> None:
        self._take_reading()
        self._pump()
        # missed beats are left out, not made up for
        now = self._clock.monotonic()
        due = max(self._due + self._beat_s(), now)
        self._schedule(due - now)
        self._due = due

    def _beat_s(self) -> float:
        return self._current().interval_s if self._interval_s is None else self._interval_s

    def _take_reading(self) -> None:
        self._readings += 1
        msg_id = f"{self._boot}-{self._readings}"
        reading = {"ts": rfc3339(self._clock.now_ms()), "msg_id": msg_id, **self._signal.sample()}
        dropped = self._queue.put(Outgoing(self._current().topics["telemetry"], to_json(reading), msg_id))
        if dropped is not None:
            self._recorder.note("drop", self.device_id, id=dropped.msg_id)

    def _pump(self) -> None:
        """Send what the window allows."""
        link = self._link
        if link is None:
            return
        if self._interval_s == 0:
            while self._publishing and self._queue.has_room:
                self._take_reading()
                self._send_next(link)
        while self._send_next(link):
            pass
        self._note_idle()

    def _send_next(self, link: MqttLink) -> bool:
        message = self._queue.take()
        if message is None:
            return False
        if message.msg_id is not None and not message.transmissions:
            # first, so that whatever is acknowledged stands in the record as published
            self._recorder.note("pub", self.device_id, id=message.msg_id)
        now = self._clock.monotonic()
        self._queue.sent(link.publish(message.topic, message.payload), message, now)
        return True

    def _acknowledged(self, mid: int) -> None:
        message = self._queue.acknowledged(mid)
        if message is not None and message.msg_id is not None:
            waited_ms = round((self._clock.monotonic() - message.sent_at) * 1000, 2)
            self._recorder.note("ack", self.device_id, id=message.msg_id, ms=waited_ms)
        self._pump()

    def _note_idle(self) -> None:
        if not self._publishing and not len(self._queue):
            self._idle.set()

    def _receive(self, topic: str, payload: bytes) -> None:
        topics = self._current().device_topics
        if topic == topics.command:
            self._obey(payload)
        elif topic == topics.ota_notify:
            self._answer_offer(payload)
        elif topic == topics.config_response:
            self._configure(payload)

    def _obey(self, payload: bytes) -> None:
        """Carry out a command once. ``fail`` is answered with an error, ``ignore`` not at all, all else with ok."""
        command = _json_object(payload)
        command_id = command.get("command_id")
        if isinstance(command_id, str):
            if command_id in self._seen_commands:
                self._recorder.note("repeat", self.device_id, id=command_id)
                return
            self._seen_commands.append(command_id)
        action = command.get("action")
        self._recorder.note("cmd", self.device_id, id=command_id)
        self._log(f"command {action}")
        if action == "ignore":
            return
        answer: dict[str, Any] = {"command_id": command_id} if isinstance(command_id, str) else {}
        if action == "fail":
            answer |= {"status": "error", "error": "failed as it was told to"}
        else:
            answer |= {"status": "ok", "result": {"action": action, "readings": self._readings}}
        self._say(self._current().topics["command_response"], answer)

    def _answer_offer(self, payload: bytes) -> None:
        """This device has no second slot for firmware: it says so instead of leaving the offer open."""
        offer = _json_object(payload)
        update_id, params = offer.get("update_id"), offer.get("params")
        if not isinstance(update_id, str):
            return
        version = params.get("version") if isinstance(params, dict) else None
        status: dict[str, Any] = {"update_id": update_id, "version": self._label.firmware_version}
        if offer.get("action") == "cancel_update":
            status["state"] = "cancelled"
        elif version == self._label.firmware_version:
            status["state"] = "already_installed"
        else:
            status |= {"state": "failed", "error": "this device cannot update itself"}
        self._log(f"firmware offer {version}: {status['state']}")
        self._say(self._current().topics["ota_status"], status)

    def _say(self, topic: str, body: dict[str, Any]) -> None:
        self._idle.clear()
        self._queue.put(Outgoing(topic, to_json(body)))
        self._pump()

    def _configure(self, payload: bytes) -> None:
        """Take over a new configuration; connect again if it changes where, as whom or on what topics."""
        answer = parse_answer(payload)
        if not isinstance(answer, ConfigOk):
            return
        before = self._current()
        if self._contact.same_address:
            kept = before.mqtt.model_dump(include={"host", "port", "tls"})
            answer = answer.model_copy(update={"mqtt": answer.mqtt.model_copy(update=kept)})
        try:
            after = Credentials.from_answer(answer, before)
        except (TypeError, ValueError):
            self._log("a configuration that cannot be used")
            return
        if after == before:
            return
        self._store.save(after)
        self._credentials = after
        self._log(f"configuration {after.config_version}")
        moved = (after.mqtt, after.password, after.topics) != (before.mqtt, before.password, before.topics)
        if after.interval_s != before.interval_s:
            self._schedule(self._beat_s())
        if moved and self._link is not None:
            # after its PUBACK has gone out, or it would come again
            asyncio.get_running_loop().call_soon(self._link.abort)

    def _current(self) -> Credentials:
        if self._credentials is None:
            raise RuntimeError("the device is not paired")
        return self._credentials


def _json_object(payload: bytes) -> dict[str, Any]:
    """What the payload says, if it is a JSON object; a template may render anything."""
    try:
        value = json.loads(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
