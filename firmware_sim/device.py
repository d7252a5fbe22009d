"""A device as its firmware would be written: pairs, connects, publishes, obeys, comes back; knows the contract only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from pydantic_core import to_json

from appliance.contract.device import ConfigRequest, encode
from appliance.contract.times import Clock
from firmware_sim.backoff import Backoff
from firmware_sim.configuration import needs_new_connection, taken_over
from firmware_sim.credentials import Credentials, CredentialStore, link_of
from firmware_sim.faults import Misbehaviour
from firmware_sim.firmware import Firmware
from firmware_sim.flash import Flash
from firmware_sim.habits import Habits
from firmware_sim.link import LinkError, MqttLink
from firmware_sim.mischief import Mischief
from firmware_sim.orders import Orders
from firmware_sim.pairing import Contact, Label, pair
from firmware_sim.readings import Readings
from firmware_sim.record import Recorder
from firmware_sim.send_queue import Outgoing, SendQueue
from firmware_sim.signals import Signal
from firmware_sim.speaker import Speaker
from firmware_sim.update_memory import Report

STABLE_AFTER_S = 10.0


class Device:
    """One device. ``interval_s`` overrides what its configuration says; 0 means as fast as PUBACKs allow.

    ``flash`` keeps its firmware. ``log`` gets a line for people whenever something happens to it.
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
        jitter: float = 0.0,
        keepalive_s: int = 60,
        longest_backoff_s: float = 30.0,
        flash: Flash | None = None,
        habits: Habits | None = None,
        misbehaviour: Misbehaviour | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.serial = label.serial
        self.misbehaviour = misbehaviour or Misbehaviour(random=random)
        """What it does wrong; may be changed at any time."""
        self._label = label
        self._contact = contact
        self._store = store
        self._recorder = recorder
        self._random = random
        self._connecting = connecting
        self._clock = clock or Clock()
        self._interval_s = interval_s
        self._keepalive_s = keepalive_s
        self._log = log
        self._backoff = Backoff(random=random, longest_s=longest_backoff_s)
        self._readings = Readings(
            signal=signal,
            random=random,
            clock=self._clock,
            misbehaviour=self.misbehaviour,
            every_s=self._beat_s,
            beat=lambda: self._speaker.read(),
            jitter=jitter,
        )
        self._orders = Orders(
            misbehaviour=self.misbehaviour,
            say=lambda answer: self._speaker.say(Outgoing("command_response", to_json(answer))),
            note=lambda event, command_id: self._recorder.note(event, self.device_id, id=command_id),
            report=lambda: {"readings": self._readings.count, "firmware": self._firmware.version},
            log=log,
        )
        self._firmware = Firmware(
            flash=flash or Flash(),
            factory_version=label.firmware_version,
            random=random,
            say=self._say_report,
            cut=self._leave,
            ca_pem=self._files_ca_pem,
            habits=habits,
            log=log,
        )
        self._speaker = Speaker(
            queue=SendQueue(window=window, limit=queue_limit),
            recorder=recorder,
            clock=self._clock,
            misbehaviour=self.misbehaviour,
            name=lambda: self.device_id,
            topics=lambda: self._current().topics,
            take=self._take_reading,
            settled=self._firmware.settled,
            full_speed=interval_s == 0,
        )
        self._mischief = Mischief(
            misbehaviour=self.misbehaviour, credentials=self._current, keepalive_s=keepalive_s, name=label.serial
        )
        self._credentials: Credentials | None = None
        self._with_previous = False
        self._hears_command = True
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
        return self._speaker.link is not None

    @property
    def firmware_version(self) -> str:
        """Of the firmware that runs."""
        return self._firmware.version

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
        for report in self._firmware.unsent:
            self._say_report(report)
        if self._interval_s != 0:  # at 0, the speaker takes them
            self._readings.schedule(self._random.random() * self._beat_s())
        self._mischief.start()
        tasks = {
            asyncio.create_task(self._stay_connected(asks_for_configuration), name=f"device {self.serial} connection"),
            asyncio.create_task(self._firmware.run(), name=f"device {self.serial} firmware"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.stop_publishing()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._firmware.close()
            await self._mischief.stop()

    def stop_publishing(self) -> None:
        """Take no more readings; what waits is still sent."""
        self._readings.stop()
        self._speaker.stop()

    async def drained(self) -> None:
        """Wait until everything said has been acknowledged; only after :meth:`stop_publishing`."""
        await self._speaker.drained()

    # --- connections -----------------------------------------------------------------------------------------

    async def _stay_connected(self, asks_for_configuration: bool) -> None:
        while True:
            await self._firmware.running.wait()
            try:
                await self._session(asks_for_configuration)
                asks_for_configuration = False
            except LinkError as error:
                self._log(f"no connection: {error}")
                if error.refused and self._current().previous:
                    # the new password may not hold at the other side, where a backup was put back
                    self._with_previous = not self._with_previous
            await asyncio.sleep(0.0 if self.misbehaviour.get("flapping") else self._backoff.next_s())

    async def _session(self, asks_for_configuration: bool) -> None:
        """One connection from CONNECT to its end."""
        credentials = self._current()
        previous = credentials.previous if self._with_previous else None
        link = link_of(
            credentials,
            previous or credentials.password,
            keepalive_s=self._keepalive_s,
            on_message=self._receive,
            on_ack=self._speaker.acknowledged,
            acknowledges=self._acknowledges,
        )
        async with self._connecting:
            await link.open(credentials.mqtt.host, credentials.mqtt.port)
        if credentials.previous and not previous:
            self._keep(credentials.model_copy(update={"previous": None}))
        up_since = None
        try:
            granted = await link.subscribe(list(credentials.device_topics.receivable()))
            if max(granted) > 2:
                raise LinkError("a subscription to an own topic was refused")
            self._recorder.note("up", self.device_id)
            self._log("connected")
            self._speaker.link, up_since = link, self._clock.monotonic()
            self._mischief.connected(link)
            self._firmware.online(True)
            if asks_for_configuration:
                self._ask_for_configuration(link)
            self.ready.set()
            self._speaker.pump()
            await asyncio.shield(link.closed)
        finally:
            self._speaker.lost()
            self._firmware.online(False)
            self._mischief.disconnected()
            if up_since is not None:
                why = link.closed.result() if link.closed.done() else "stopped"
                if self._clock.monotonic() - up_since > STABLE_AFTER_S:
                    self._backoff.reset()
                self._recorder.note("down", self.device_id, why=why)
                self._log(f"disconnected: {why}")
            await link.close()

    def _ask_for_configuration(self, link: MqttLink) -> None:
        request = ConfigRequest(
            serial=self.serial, firmware_version=self.firmware_version, hardware=self._label.hardware
        )
        link.publish(self._current().device_topics.config_request, encode(request))

    def _leave(self) -> None:
        """For a restart."""
        if self._speaker.link is not None:
            self._speaker.link.leave()

    # --- what it says ----------------------------------------------------------------------------------------

    def _beat_s(self) -> float:
        return self._current().interval_s if self._interval_s is None else self._interval_s

    def _take_reading(self) -> list[Outgoing]:
        own = self._current()
        return self._readings.take(own.topics["telemetry"].replace(own.device_id, f"not-{own.device_id}"[:64]))

    def _say_report(self, report: Report) -> None:
        self._recorder.note("ota", self.device_id, id=report.status.update_id, state=report.status.state)
        self._speaker.say(Outgoing("ota_status", encode(report.status), report=report.number))

    # --- what it hears ---------------------------------------------------------------------------------------

    def _receive(self, topic: str, payload: bytes) -> None:
        topics = self._current().device_topics
        if topic == topics.command:
            self._hears_command = not self.misbehaviour.now("no-puback")
            if self._hears_command:
                self._orders.take(payload)
        elif topic == topics.ota_notify:
            self._firmware.offered(payload)
        elif topic == topics.config_response:
            self._configure(payload)

    def _acknowledges(self, topic: str) -> bool:
        return topic != self._current().device_topics.command or self._hears_command

    def _configure(self, payload: bytes) -> None:
        """Take over a new configuration; connect again if it changes where, as whom or on what topics."""
        before = self._current()
        try:
            after = taken_over(payload, before, self._contact)
        except ValueError:
            self._log("a configuration that cannot be used")
            return
        if after is None or after == before:
            return
        self._keep(after)
        self._with_previous = False
        self._log(f"configuration {after.config_version}")
        if after.interval_s != before.interval_s:
            self._readings.new_rhythm()
        if self._speaker.link is not None and needs_new_connection(before, after):
            # after its PUBACK has gone out, or it would come again
            asyncio.get_running_loop().call_soon(self._speaker.link.leave)

    def _keep(self, credentials: Credentials) -> None:
        self._store.save(credentials)
        self._credentials = credentials

    def _files_ca_pem(self) -> str | None:
        return self._current().mqtt.ca_pem or self._contact.ca_pem or self._contact.files_ca_pem

    def _current(self) -> Credentials:
        if self._credentials is None:
            raise RuntimeError("the device is not paired")
        return self._credentials
