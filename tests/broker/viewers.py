"""Viewers of a rig, speaking raw MQTT."""

from __future__ import annotations

from typing import NamedTuple

from appliance.broker import frames
from tests.broker.rig import Client, Rig, connect, packet, subscribe, text

ACCOUNT, PASSWORD = "scada", "look-only"
DISCONNECT = b"\xe0\x00"


class Received(NamedTuple):
    """A PUBLISH as a client got it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None


async def viewer(
    rig: Rig,
    *filters: str,
    client_id: str = "v",
    qos: int = 1,
    account: str = ACCOUNT,
    clean: bool = True,
    present: bool = False,
    will: tuple[str, bytes] | None = None,
    flags: int = 0,
) -> Client:
    """A viewer that is logged in and has subscribed; ``present`` is what CONNACK must say of its session."""
    client = await rig.client()
    client.send(connect(client_id, account, PASSWORD.encode(), clean=clean, will=will, flags=flags))
    assert await client.packet() == (frames.CONNACK, bytes([present, 0]))
    if filters:
        client.send(subscribe(1, *filters, qos=qos))
        assert await client.packet() == (frames.SUBACK, b"\x00\x01" + bytes([qos] * len(filters)))
    return client


async def received(client: Client) -> Received:
    """The next packet, which must be a PUBLISH."""
    header, body = await client.packet()
    assert header & 0xF0 == frames.PUBLISH, (hex(header), body)
    end = 2 + int.from_bytes(body[:2], "big")
    qos = header >> 1 & 3
    packet_id = int.from_bytes(body[end : end + 2], "big") if qos else None
    payload = body[end + 2 :] if qos else body[end:]
    return Received(body[2:end].decode(), payload, qos, bool(header & 1), bool(header & 8), packet_id)


def unsubscribe(packet_id: int, *filters: str) -> bytes:
    return packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(text(each) for each in filters))


async def publish(client: Client, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
    """Publish with packet id 77 and see it through."""
    client.send(frames.publish(topic, payload, qos=qos, packet_id=77, retain=retain))
    if qos == 1:
        assert await client.packet() == (frames.PUBACK, b"\x00\x4d")
    elif qos == 2:
        assert await client.packet() == (frames.PUBREC, b"\x00\x4d")
        client.send(frames.PUBREL_HEAD + b"\x00\x4d")
        assert await client.packet() == (frames.PUBCOMP, b"\x00\x4d")
