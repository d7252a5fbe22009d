"""What a device is told when it asks for its configuration (contract, "Config request and answer")."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.contract.device import ConfigOk, MqttAccess
from appliance.contract.times import Clock, rfc3339
from appliance.services.credentials import Credentials
from appliance.store.devices import Device


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
