"""Settings: environment variables or a ``.env`` file, checked before anything starts.

The environment goes before the file; an empty value means the default. A field's name is its variable's in lower case.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from appliance.contract.topics import TopicTemplates, template_error
from appliance.errors import SettingsError

PREFIXES = ("MQTT_", "ODOO_", "IIOT_")
"""An unknown name that begins with one of these is taken for a misspelt setting."""
DOT_ENV = Path(".env")
SHORTEST_API_KEY = 16
"""Characters. API keys are compared by a fast hash, so they must be too long to guess."""

_TOPICS = TopicTemplates()
_TOPIC_FIELDS = {
    "mqtt_config_request_topic": "config_request",
    "mqtt_config_response_topic": "config_response",
    "mqtt_telemetry_topic_template": "telemetry",
    "mqtt_command_topic_template": "command",
    "mqtt_command_response_topic_template": "command_response",
    "mqtt_ota_notify_topic_template": "ota_notify",
    "mqtt_ota_status_topic_template": "ota_status",
}
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - a gateway serves every network it is plugged into unless told otherwise
_PLACEHOLDER = re.compile(r"(https?://)?your[-_ ].*|<.*>|change[-_ ]?me|x{3,}|\.{3,}|…", re.IGNORECASE)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


def _host(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value.strip("[]")))
    except ValueError:
        if _HOST_NAME.fullmatch(value):
            return value
        raise ValueError("must be an address or a host name, without scheme and port") from None


def _header_value(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not _HEADER_VALUE.fullmatch(value.get_secret_value()):
        raise ValueError("may hold printable ASCII characters only, and no spaces")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("may hold printable characters only, and no spaces around them")
    return value


def _default_data_dir() -> Path:
    """Where systemd keeps a unit's state, else a folder beside where the appliance was started."""
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) if state else Path("data")


Port = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, AfterValidator(_host)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header_value)]
Line = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_one_line)]


class Settings(BaseSettings):
    """Every setting. Port 0 means any free port. Build it with :func:`read`, which explains what is wrong."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        env_file_encoding="utf-8-sig",  # editors on Windows put a byte order mark in front
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    mqtt_broker_host: str = Field("", description="must stay empty: the broker is embedded")
    mqtt_broker_port: Port = Field(8883, description="port of the broker")
    mqtt_use_tls: bool = Field(True, description="whether that port speaks TLS")
    mqtt_plain_port: Port | None = Field(None, description="a second port without TLS; empty: none")
    mqtt_bind: Host = Field(_ANY_ADDRESS, description="address the broker listens on")
    mqtt_broker_username: Line | None = Field(None, description="name of the read-only viewer account; empty: none")
    mqtt_broker_password: SecretStr | None = Field(None, description="its password")
    mqtt_client_id: Line = Field(default_factory=socket.gethostname, description="name of this gateway")
    mqtt_max_payload_bytes: int = Field(262_144, ge=1024, le=16 << 20, description="longest payload a client may send")
    mqtt_max_connections: int = Field(10_000, ge=1, le=100_000, description="most connections at a time")
    mqtt_max_unpaired_per_address: int = Field(
        20, ge=1, le=10_000, description="of these from one address, devices that are not paired yet"
    )

    mqtt_config_request_topic: str = Field(_TOPICS.config_request, description="a device asks for its configuration")
    mqtt_config_response_topic: str = Field(
        _TOPICS.config_response, description="the answer; `{device}` is the serial number here"
    )
    mqtt_telemetry_topic_template: str = Field(_TOPICS.telemetry, description="readings of a device")
    mqtt_command_topic_template: str = Field(_TOPICS.command, description="commands to a device")
    mqtt_command_response_topic_template: str = Field(_TOPICS.command_response, description="its answers to them")
    mqtt_ota_notify_topic_template: str = Field(_TOPICS.ota_notify, description="firmware offers to a device")
    mqtt_ota_status_topic_template: str = Field(_TOPICS.ota_status, description="how far it is with them")

    odoo_base_url: str = Field("", description="address of Odoo; empty: run alone and keep everything")
    odoo_api_key: HeaderSecret | None = Field(None, description="key of this gateway in Odoo")
    odoo_database: Line | None = Field(None, description="database, where Odoo serves several at one address")
    odoo_timeout_s: float = Field(60.0, ge=1, le=3600, description="how long Odoo may take to answer, in seconds")
    odoo_batch_messages: int = Field(500, ge=1, le=10_000, description="most messages in one request to Odoo")
    odoo_batch_bytes: int = Field(1_000_000, ge=1024, le=64 << 20, description="largest request to Odoo, about")

    host: Host = Field(_ANY_ADDRESS, description="address the HTTP API listens on")
    port: Port = Field(8000, description="port of the HTTP API")
    http_use_tls: bool = Field(True, description="`False` only behind a proxy that speaks TLS")
    iiot_api_key: HeaderSecret | None = Field(
        None, description="key of the HTTP API; empty: one is made and kept in the data folder as `api_key`"
    )

    iiot_advertised_host: Host | None = Field(None, description="what devices are told to connect to; empty: host name")
    iiot_data_dir: Path = Field(default_factory=_default_data_dir, description="data folder")
    iiot_identity_at_odoo: bool = Field(
        True, description="whether Odoo keeps the encrypted identity for a box that replaces this one"
    )
    iiot_backup_passphrase: SecretStr | None = Field(
        None, description="passphrase that backups are encrypted with; empty: they are not"
    )
    iiot_log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least important log line")
    iiot_log_format: Literal["text", "json"] = Field(
        "text", description="`json`: each log line an object, for programs"
    )
    iiot_buffer_quota_mb: int = Field(4096, ge=16, le=1 << 20, description="largest size of the buffer file, in MiB")
    iiot_history_hours: float = Field(24.0, ge=0, le=8760, description="how long what Odoo has is kept, in hours")
    iiot_history_mb: int = Field(256, ge=0, le=1 << 20, description="how much of it, in MiB")

    iiot_firmware_max_mb: int = Field(256, ge=1, le=16_384, description="largest firmware file, in MiB")
    iiot_firmware_quota_mb: int = Field(2048, ge=1, le=1 << 20, description="all firmware files together, in MiB")
    iiot_firmware_hosts: str = Field(
        "", description="hosts, with commas between, that firmware may come from besides Odoo; empty: any but this box"
    )
    iiot_firmware_base_url: str = Field(
        "", description="address of the HTTP API in firmware links; empty: as devices are told to connect"
    )
    iiot_update_fetch_hours: float = Field(12.0, gt=0, le=8760, description="how long fetching a firmware may take")
    iiot_update_offer_hours: float = Field(72.0, gt=0, le=8760, description="how long an update waits for its device")
    iiot_update_download_hours: float = Field(
        6.0, gt=0, le=8760, description="how long a device may go without a percent of its download"
    )
    iiot_update_install_minutes: float = Field(
        60.0, gt=0, le=525_600, description="how long each step after the download may take"
    )

    @property
    def topics(self) -> TopicTemplates:
        """The seven topic templates."""
        return TopicTemplates(**{name: getattr(self, field) for field, name in _TOPIC_FIELDS.items()})

    @field_validator("mqtt_broker_host")
    @classmethod
    def _embedded_only(cls, value: str) -> str:
        if value:
            raise ValueError("an external broker is not supported yet; leave it empty to use the embedded one")
        return value

    @field_validator(
        "mqtt_broker_username",
        "mqtt_broker_password",
        "mqtt_client_id",
        "odoo_base_url",
        "odoo_api_key",
        "odoo_database",
        "iiot_api_key",
        "iiot_advertised_host",
        mode="before",
    )
    @classmethod
    def _no_placeholder(cls, value: object) -> object:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and _PLACEHOLDER.fullmatch(text.strip()):
            raise ValueError("still holds an example's placeholder; set your own value or leave it empty")
        return value

    @field_validator("mqtt_broker_password")
    @classmethod
    def _whole_viewer_account(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "mqtt_broker_username" in info.data and (info.data["mqtt_broker_username"] is None) != (value is None):
            raise ValueError("MQTT_BROKER_USERNAME and MQTT_BROKER_PASSWORD are needed both, or neither")
        return value

    @field_validator(*_TOPIC_FIELDS)
    @classmethod
    def _usable_topic(cls, value: str, info: ValidationInfo) -> str:
        reason = template_error(_TOPIC_FIELDS[info.field_name or ""], value)
        if reason:
            raise ValueError(f"{value!r}: {reason}")
        for field in _TOPIC_FIELDS:
            if info.data.get(field) == value:
                raise ValueError(f"{value!r} is already the topic of {field.upper()}")
        return value

    @field_validator("iiot_firmware_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        return ",".join(_host(part.strip()) for part in value.split(",") if part.strip())

    @field_validator("iiot_firmware_quota_mb")
    @classmethod
    def _room_for_one(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("iiot_firmware_max_mb", 0):
            raise ValueError("must not be less than IIOT_FIRMWARE_MAX_MB")
        return value

    @field_validator("odoo_base_url", "iiot_firmware_base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        if not value:
            return value
        try:
            url = urlsplit(value)
            usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
        except ValueError:
            usable = False
        if not usable or not value.isprintable() or " " in value:
            raise ValueError("must look like https://host.example.com")
        if url.username is not None or url.password is not None:
            raise ValueError("must not hold a user name or password; the key for Odoo belongs into ODOO_API_KEY")
        if url.query or url.fragment:
            raise ValueError("must not hold a query or fragment")
        return value.rstrip("/")

    @field_validator("odoo_api_key")
    @classmethod
    def _key_for_odoo(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None and info.data.get("odoo_base_url"):
            raise ValueError("is needed when ODOO_BASE_URL is set")
        return value

    @field_validator("iiot_api_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SHORTEST_API_KEY:
            raise ValueError(f"must have at least {SHORTEST_API_KEY} characters")
        return value

    @field_validator("mqtt_plain_port", "port")
    @classmethod
    def _own_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        for field in ("mqtt_broker_port", "mqtt_plain_port"):
            if value and info.data.get(field) == value:
                raise ValueError(f"is the same port as {field.upper()}")
        return value

    @field_validator("iiot_log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("iiot_data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Findings:
    """What was read: ``settings`` unless there are ``problems``; names nobody knows; what is allowed but unwise."""

    settings: Settings | None
    problems: list[str]
    unknown: list[str]
    cautions: list[str]


def read(env_file: Path | None = None) -> Findings:
    """Read the environment and ``env_file`` (else ``.env`` in the working directory) and find all that is wrong.

    The texts name the variables and never hold a secret.
    """
    problem = _unreadable(env_file)
    if problem:
        return Findings(None, [problem], [], [])
    path = env_file or DOT_ENV
    unknown = list(_unknown(path))
    try:
        settings = Settings(_env_file=path)  # type: ignore[call-arg]  # a parameter that pydantic-settings adds
    except ValidationError as error:
        # None of the sentences repeats a secret: inputs and context stay out, our own texts quote topics alone.
        details = error.errors(include_url=False, include_input=False, include_context=False)
        return Findings(None, [_sentence(detail) for detail in details], unknown, [])
    return Findings(settings, [], unknown, list(_cautions(settings)))


def load(env_file: Path | None = None) -> Settings:
    """The settings, or ``SettingsError`` with every problem."""
    findings = read(env_file)
    if findings.settings is None:
        raise SettingsError(findings.problems)
    return findings.settings


def _unreadable(env_file: Path | None) -> str | None:
    path = env_file or DOT_ENV
    try:
        path.read_text("utf-8-sig")
    except FileNotFoundError:
        return None if env_file is None else f"{path}: there is no such file"
    except OSError as error:
        return f"{path}: {error.strerror}"
    except UnicodeDecodeError:
        return f"{path}: is not UTF-8 text"
    return None


def _unknown(env_file: Path) -> Iterator[str]:
    known = [field.upper() for field in Settings.model_fields]
    given = (
        EnvSettingsSource(Settings).env_vars.keys() | DotEnvSettingsSource(Settings, env_file=env_file).env_vars.keys()
    )
    for name in sorted(name.upper() for name in given):
        if name.startswith(PREFIXES) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            yield f"{name} is no setting; the nearest known name is {nearest}"


def _sentence(detail: ErrorDetails) -> str:
    name = str(detail["loc"][0]).upper() if detail["loc"] else "settings"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}"


def _cautions(settings: Settings) -> Iterator[str]:
    if not settings.http_use_tls and not _is_loopback(settings.host):
        yield "HTTP_USE_TLS is off: API keys travel in plain text unless a proxy in front speaks TLS"
    if not settings.mqtt_use_tls and not _is_loopback(settings.mqtt_bind):
        yield "MQTT_USE_TLS is off: device passwords travel in plain text"
    url = urlsplit(settings.odoo_base_url)
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        yield "ODOO_BASE_URL is not https: the key for Odoo travels in plain text"
    if settings.odoo_api_key and not settings.odoo_base_url:
        yield "ODOO_API_KEY is set and ODOO_BASE_URL is not: the appliance runs alone"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
