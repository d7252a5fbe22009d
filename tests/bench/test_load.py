"""The load generator counts what it may count, and ends with an error when a server breaks a rule."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.bench.load import LAST_ID, Account, Job, measure, sensor_payload
from tests.bench.wire import WireError, split, split_publish

Answer = Callable[[int], bytes | None]
"""What a server does with the packet id of a publish: bytes to send, ``None`` to hang up."""


class Echo(asyncio.Protocol):
    """A server that lets everybody in and answers publishes as ``answer`` says."""

    def __init__(self, answer: Answer, connack: bytes, payloads: list[bytes]) -> None:
        self._answer = answer
        self._connack = connack
        self._payloads = payloads
        self._buffer = bytearray()
        self._transport: asyncio.Transport
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for first, body in split(self._buffer):
            if first == 0x10:
                self._transport.write(self._connack)
            elif first & 0xF0 == 0x30:
                _, packet_id, payload = split_publish(first, body)
                assert packet_id is not None
                self._payloads.append(payload)
                answer = self._answer(packet_id)
                if answer is None:
                    self._transport.close()
                    return
                self._transport.write(answer)


@asynccontextmanager
async def echo_server(
    answer: Answer, *, connack: bytes = b"\x20\x02\0\0", payloads: list[bytes] | None = None
) -> AsyncIterator[Job]:
    kept: list[bytes] = [] if payloads is None else payloads
    connections: list[Echo] = []

    def accept() -> Echo:
        connections.append(Echo(answer, connack, kept))
        return connections[-1]

    async with await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0) as server:
        yield Job(
            port=server.sockets[0].getsockname()[1],
            server_pid=os.getpid(),
            accounts=[Account("press-0001", "telemetry/press-0001/data"), Account("press-0002", "t/press-0002")],
            in_flight=5,
            warm_up_s=0.02,
            window_s=0.05,
        )
        for connection in connections:
            await asyncio.wait_for(connection.lost.wait(), 5)


def ack(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


async def test_every_message_counts_once_and_none_stays_open() -> None:
    payloads: list[bytes] = []
    async with echo_server(ack, payloads=payloads) as job:
        result = await measure(job)
    assert result["acknowledged"] == len(payloads) > 10
    assert 0 < result["messages"] < result["acknowledged"]
    assert result["out_of_order"] == 0


async def test_payloads_are_different_json_of_the_size_asked_for() -> None:
    payloads: list[bytes] = []
    async with echo_server(ack, payloads=payloads) as job:
        await measure(job)
    assert {len(payload) for payload in payloads} == {job.payload_bytes}
    numbers = [json.loads(payload)["n"] for payload in payloads]
    assert len(set(numbers)) == pytest.approx(len(numbers) / 2, rel=0.2)  # both devices count from the same number


async def test_acknowledgements_in_pieces_and_in_another_order_are_counted() -> None:
    held: list[int] = []

    def swapped(packet_id: int) -> bytes:
        held.append(packet_id)
        if len(held) % 2:
            return b""
        return ack(held[-1]) + ack(held[-2])

    async with echo_server(swapped) as job:
        result = await measure(replace(job, accounts=job.accounts[:1], in_flight=6))
    assert result["out_of_order"] > 0
    assert result["acknowledged"] == len(held)


async def test_packet_ids_start_again_at_one() -> None:
    seen: list[int] = []

    def note(packet_id: int) -> bytes:
        seen.append(packet_id)
        return ack(packet_id)

    async with echo_server(note) as job:
        result = await measure(replace(job, accounts=job.accounts[:1], first_number=LAST_ID - 7))
    assert seen[:12] == [*range(LAST_ID - 6, LAST_ID + 1), 1, 2, 3, 4, 5]
    assert result["acknowledged"] == len(seen)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda packet_id: ack(packet_id + 77), "not in flight"),
        (lambda packet_id: ack(packet_id) * 2, "not in flight"),
        (lambda packet_id: b"\x50\x02\0\1", "unexpected packet"),
        (lambda packet_id: None, "disconnected"),
    ],
)
async def test_a_server_that_breaks_a_rule_ends_the_measurement(answer: Answer, reason: str) -> None:
    async with echo_server(answer) as job:
        with pytest.raises(WireError, match=reason):
            await measure(job)


async def test_a_refused_connection_ends_the_measurement() -> None:
    async with echo_server(ack, connack=b"\x20\x02\0\5") as job:
        with pytest.raises(WireError, match="CONNACK"):
            await measure(job)


def test_a_payload_too_small_for_its_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        sensor_payload(20)
