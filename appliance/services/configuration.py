"""What a device is told when it asks for its configuration (contract, "Config request and answer")."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from appliance.contract.device import ConfigOk, MqttAccess, encode
from appliance.contract.times import Clock, rfc3339
from appliance.services.credentials import Credentials
from appliance.store.device import topics_digest
from appliance.store.devices import Device, Told

DIGEST_BYTES = 16
PUBLISH_OVERHEAD_BYTES = 9
"""Of a PUBLISH with QoS 1 around topic and payload: fixed header, length of the topic, packet id (§3.3)."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where devices reach the broker, unless Odoo names another address for them."""

    host: str
    port: int
    tls: bool


class Configuration:
    """Writes answers from a device's record. They are always the present configuration, never a kept copy."""

    def __init__(self, *, credentials: Credentials, address: BrokerAddress, ca_pem: str, clock: Clock) -> None:
        self._credentials = credentials
        self._address = address
        self._ca_pem = ca_pem
        self._clock = clock

    def answer(self, device: Device, *, request_id: str | None, ca: bool, secret_of: int | None = None) -> ConfigOk:
        """The answer for ``device``.

        ``ca``: with the authority's certificate, where the connection uses TLS. ``secret_of``: with the secret
        of that generation; a device that has its secret is not told it again.
        """
        wanted = device.config.mqtt
        tls = self._address.tls if wanted.tls is None else wanted.tls
        local = device.config.local()
        return ConfigOk(
            request_id=request_id,
            device_id=device.device_id,
            config_version=device.config_version,
            mqtt=MqttAccess(
                host=wanted.host or self._address.host,
                port=wanted.port or self._address.port,
                tls=tls,
                client_id=device.device_id,
                username=device.device_id,
                password=(None if secret_of is None else self._credentials.password(device.device_id, secret_of)),
                ca_pem=self._ca_pem if ca and tls else None,
            ),
            topics=device.topics.as_dict(),
            settings=device.config.settings,
            local_topics=None if local is None else local.expand(device.device_id),
            time=rfc3339(self._clock.now_ms()),
        )

    def digest(self, device: Device) -> bytes:
        """What tells whether a device has its present configuration: of all that is in its answer but secret,
        certificate and time. Also the appliance's own address and topics are in it."""
        answer = self.answer(device, request_id=None, ca=False).model_copy(update={"time": ""})
        return hashlib.blake2b(encode(answer), digest_size=DIGEST_BYTES).digest()

    def told(self, device: Device, *, generation: int, asked: bool = False) -> Told:
        """What it knows of a device that it was told its present configuration; ``generation`` of its secret."""
        return Told(device.config_version, generation, self.digest(device), topics_digest(device.topics), asked)


def newer_secret(device: Device, generation: int) -> int | None:
    """The generation of the secret that is new to who shows the one of ``generation``, if he may have it.

    A rotation is for whoever has the present secret. A new token is not: it may have been given out because somebody
    else has that secret, so what came with or after it is for its holder alone.
    """
    return device.generation if device.paired_generation <= generation < device.generation else None


def too_large(device: Device, payload: bytes) -> str | None:
    """Why this answer cannot be sent to the device over MQTT, or ``None``."""
    most = device.config.max_packet_bytes
    packet_bytes = PUBLISH_OVERHEAD_BYTES + len(device.topics.config_response.encode()) + len(payload)
    if most is None or packet_bytes <= most:
        return None
    return f"the answer has {packet_bytes} bytes, the device's profile allows {most}; ask over HTTP"
