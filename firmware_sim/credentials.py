"""What a device keeps in its flash: who it is, where it connects, and a pairing that has begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.contract.device import ConfigOk, DeviceId, MqttAccess
from appliance.contract.topics import DeviceTopics
from firmware_sim import trust
from firmware_sim.flash import read_json, write_json
from firmware_sim.link import LinkError, MqttLink

DEFAULT_INTERVAL_S = 10.0


class Credentials(BaseModel):
    """A paired device's identity and configuration."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    device_id: DeviceId
    config_version: int
    mqtt: MqttAccess
    password: str = Field(repr=False)
    previous: str | None = Field(default=None, repr=False)
    """The password before, until the device has logged in with the new one."""
    topics: dict[str, str]
    settings: dict[str, Any]

    @classmethod
    def from_answer(cls, answer: ConfigOk, before: Credentials | None = None) -> Credentials:
        """Take over an answer; a password that is not new is not in it. ``ValueError`` if one is missing."""
        password = answer.mqtt.password or (before.password if before else None)
        if password is None:
            raise ValueError("the answer holds no password")
        ca_pem = answer.mqtt.ca_pem or (before.mqtt.ca_pem if before else None)
        DeviceTopics(**answer.topics)
        return cls(
            device_id=answer.device_id,
            config_version=answer.config_version,
            mqtt=answer.mqtt.model_copy(update={"password": None, "ca_pem": ca_pem}),
            password=password,
            previous=_previous(password, before),
            topics=answer.topics,
            settings=answer.settings,
        )

    @property
    def device_topics(self) -> DeviceTopics:
        """The seven topics."""
        return DeviceTopics(**self.topics)

    @property
    def interval_s(self) -> float:
        """How often to publish, in seconds; nonsense means the default."""
        value = self.settings.get("telemetry_interval_s")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0.001 <= value <= 86_400:
            return float(value)
        return DEFAULT_INTERVAL_S


def _previous(password: str, before: Credentials | None) -> str | None:
    if before is None:
        return None
    return before.previous if before.password == password else before.password


class CredentialStore:
    """The flash: a JSON file of mode 0600, or memory only if ``path`` is ``None``."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._content: dict[str, Any] = {}
        if path is not None:
            self._content = read_json(path)

    def load(self) -> Credentials | None:
        """The credentials, if the device is paired."""
        try:
            return Credentials.model_validate(self._content.get("credentials"))
        except ValidationError:
            return None

    def save(self, credentials: Credentials) -> None:
        """Keep them; a pairing that had begun is over."""
        self._write({"credentials": credentials.model_dump(mode="json")})

    def request_id(self, fresh: str) -> str:
        """The request id of the pairing that has begun, also after a restart; ``fresh`` begins one."""
        if not isinstance(self._content.get("request_id"), str):
            self._write({**self._content, "request_id": fresh})
        return str(self._content["request_id"])

    def forget(self) -> None:
        """Back to the factory's state."""
        self._write({})

    def _write(self, content: dict[str, Any]) -> None:
        self._content = content
        if self._path is not None:
            write_json(self._path, content)


def link_of(credentials: Credentials, password: str, **options: Any) -> MqttLink:
    """A connection for a paired device, not open yet; ``LinkError`` if it could not be trusted."""
    access = credentials.mqtt
    if access.tls and not access.ca_pem:
        raise LinkError("the answer asks for TLS, and this device has no authority to trust")
    return MqttLink(
        client_id=access.client_id,
        username=access.username,
        password=password,
        trust=trust.context(access.ca_pem) if access.tls and access.ca_pem else None,
        **options,
    )
