"""The way into amqtt: bounded, paced by fences, fair between what devices and what viewers publish."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from amqtt.broker import Broker

from appliance.broker import fan_out as module
from appliance.broker.fan_out import FanOut, unwrap, wrap
from appliance.contract.topics import FENCE_TOPIC
from tests.broker.rig import WITHIN_S, Rig
from tests.broker.viewers import received, viewer

TOPIC = "telemetry/press-07/data"


class Seen(FanOut):
    """Notes what amqtt was given, and how much of it was under way at most."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given: list[tuple[str, bytes]] = []
        self.most_under_way = 0
        self._under_way = 0
        self.drained = asyncio.Event()

    async def _broadcast(self, topic: str, data: bytes) -> None:
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        if topic != FENCE_TOPIC:
            self.given.append((topic, unwrap(data)[2]))
        await super()._broadcast(topic, data)

    def _at_fence(self, topic: str, data: bytes) -> None:
        super()._at_fence(topic, data)
        self._under_way = 0
        if not len(self):
            self.drained.set()


@asynccontextmanager
async def working(rig: Rig, **options: int) -> AsyncIterator[Seen]:
    """A fan-out of its own beside the rig's, filled before it runs."""
    limits: dict[str, int] = {"most_messages": 1000, "most_bytes": 1 << 20}
    fan_out = Seen(amqtt=rig.broker.amqtt, **(limits | options))
    # the rig's own session for fences has another name in amqtt
    fan_out._probes = 100
    await fan_out.start()
    yield fan_out
    running = asyncio.create_task(fan_out.run(), name="fan-out under test")
    try:
        async with asyncio.timeout(WITHIN_S):
            await fan_out.drained.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await fan_out.stop()


async def test_beyond_its_bounds_the_oldest_reading_goes_and_is_counted(rig: Rig) -> None:
    async with working(rig, most_messages=10) as fan_out:
        for number in range(25):
            fan_out.offer(TOPIC, b"%d" % number, 1)
        assert (len(fan_out), fan_out.dropped) == (10, 15)
    assert [payload for _, payload in fan_out.given] == [b"%d" % number for number in range(15, 25)]
    async with working(rig, most_bytes=1000) as fan_out:
        for _ in range(25):
            fan_out.offer(TOPIC, b"x" * 300, 1)
        assert (len(fan_out), fan_out.dropped) == (3, 22)


async def test_amqtt_is_never_given_more_than_a_batch_and_its_fence(rig: Rig) -> None:
    watching = await viewer(rig, "telemetry/#", qos=0)
    async with working(rig) as fan_out:
        for number in range(350):
            fan_out.offer(TOPIC, b"%d" % number, 1)
    assert fan_out.most_under_way == module.BATCH_MESSAGES + 1
    for number in range(350):
        assert (await received(watching)).payload == b"%d" % number


async def test_large_messages_make_small_batches(rig: Rig) -> None:
    async with working(rig, most_bytes=8 << 20) as fan_out:
        for _ in range(30):
            fan_out.offer(TOPIC, b"x" * 200_000, 1)
    assert fan_out.most_under_way == 1 + module.BATCH_BYTES // 200_000 + 1


async def test_readings_and_what_viewers_publish_take_turns(rig: Rig) -> None:
    taken: list[int] = []
    async with working(rig) as fan_out:
        for number in range(200):
            fan_out.offer(TOPIC, b"", 1)
            fan_out.publish("test/a", b"", 1, lambda number=number: taken.append(number))  # type: ignore[misc]
    topics = [topic for topic, _ in fan_out.given]
    assert topics == ["test/a", TOPIC] * 200
    assert taken == list(range(200))


async def test_the_messages_of_all_viewers_together_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PUBLISHED", 5)
    taken: list[int] = []
    async with working(rig) as fan_out:
        for number in range(8):
            fan_out.publish("test/a", b"", 0, lambda number=number: taken.append(number))  # type: ignore[misc]
    assert fan_out.dropped == 3
    assert sorted(taken) == list(range(8)), "nobody waits for what was dropped"


class Broadcasts:
    """Holds back what is on its way into amqtt until it is released."""

    def __init__(self, amqtt: Broker) -> None:
        self.held: deque[tuple[Any, ...]] = deque()
        self.holding = True
        self._pass_on = amqtt.internal_message_broadcast

    async def __call__(self, *arguments: Any) -> None:
        self.held.append(arguments)
        if not self.holding:
            await self.release()

    async def release(self) -> None:
        self.holding = False
        while self.held:
            await self._pass_on(*self.held.popleft())


async def until_stalled(fan_out: FanOut) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not fan_out.stalled:
            await asyncio.sleep(0.01)


async def test_an_amqtt_that_stalls_is_noticed_given_nothing_more_and_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FENCE_WITHIN_S", 0.05)
    watching = await viewer(rig, "telemetry/#", qos=0)
    fan_out = rig.broker.fan_out
    gate = Broadcasts(rig.broker.amqtt)
    monkeypatch.setattr(rig.broker.amqtt, "internal_message_broadcast", gate)
    for number in range(500):
        fan_out.offer(TOPIC, b"%d" % number, 1)
    await until_stalled(fan_out)
    assert len(gate.held) == module.BATCH_MESSAGES + 1
    await gate.release()
    for number in range(500):
        assert (await received(watching)).payload == b"%d" % number
    async with asyncio.timeout(WITHIN_S):
        # the last fence may be overdue for a moment where the machine is busy: it is given 0.05 s
        while fan_out.stalled:
            await asyncio.sleep(0.01)


async def test_a_lost_fence_session_is_replaced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FENCE_WITHIN_S", 0.05)
    watching = await viewer(rig, "telemetry/#", qos=0)
    amqtt = rig.broker.amqtt
    _, handler = amqtt.sessions["appliance/fence/1"]
    await handler.handle_connection_closed()
    for number in range(3):
        rig.broker.fan_out.offer(TOPIC, b"%d" % number, 1)
        assert (await received(watching)).payload == b"%d" % number
    async with asyncio.timeout(WITHIN_S):
        while "appliance/fence/2" not in amqtt.sessions or rig.broker.fan_out.stalled:
            await asyncio.sleep(0.01)


async def test_it_rests_longer_when_it_cannot_keep_up_or_the_loop_is_busy(rig: Rig) -> None:
    now = cpu = 0.0
    rests: list[float] = []

    async def rest(delay_s: float) -> None:
        nonlocal now, cpu
        rests.append(round(delay_s, 6))
        # half a second passes in which this many messages come, and the event loop's thread works this long
        messages, busy_s = [(60, 0.1), (3, 0.1), (3, 0.4), (0, 0.0)][len(rests) - 1]
        now += 0.5
        cpu += busy_s
        for _ in range(messages):
            fan_out.offer(TOPIC, b"", 1)
        await asyncio.sleep(0)

    class Slow(Seen):
        async def _hand_over(self) -> int:
            nonlocal now, cpu
            count = await super()._hand_over()
            now += 0.02 * count
            cpu += 0.02 * count
            return count

    fan_out = Slow(
        amqtt=rig.broker.amqtt,
        most_messages=100,
        most_bytes=1 << 20,
        time=lambda: now,
        cpu_time=lambda: cpu,
        sleep=rest,
    )
    fan_out._probes = 100
    await fan_out.start()
    running = asyncio.create_task(fan_out.run(), name="fan-out under test")
    now = 1.0
    fan_out.offer(TOPIC, b"", 1)
    while len(rests) < 4:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await fan_out.stop()
    rest_s, gentle_s = 0.02 * module.REST, 0.02 * module.GENTLE_REST
    assert rests == [rest_s, module.MOST_PAUSE_S, 3 * rest_s, 3 * gentle_s]


def test_an_envelope_gives_back_what_was_put_in() -> None:
    assert unwrap(wrap(2**63, 2, b"payload")) == (2**63, 2, b"payload")
