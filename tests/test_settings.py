"""Settings: the seed's names keep their meaning, and whatever cannot be used is said at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from appliance.contract.topics import TopicTemplates
from appliance.errors import SettingsError
from appliance.settings import Settings, load, read
from tests.conftest import ROOT

SEED = """\
# MQTT Broker Configuration
MQTT_BROKER_HOST={host}
MQTT_BROKER_PORT=8883
MQTT_BROKER_USERNAME={username}
MQTT_BROKER_PASSWORD={password}
MQTT_USE_TLS=True
MQTT_CLIENT_ID=iiot_bridge_001

# Odoo HTTP Webhook Configuration
ODOO_BASE_URL=http://localhost:8069
ODOO_API_KEY={key}

# Topic Configuration
MQTT_CONFIG_REQUEST_TOPIC=iiot/config/request
MQTT_CONFIG_RESPONSE_TOPIC=iiot/config/{{device}}
MQTT_TELEMETRY_TOPIC_TEMPLATE=telemetry/{{device}}/data
MQTT_COMMAND_TOPIC_TEMPLATE=command/{{device}}/action
MQTT_OTA_NOTIFY_TOPIC_TEMPLATE=ota/{{device}}/notify
MQTT_OTA_STATUS_TOPIC_TEMPLATE=ota/{{device}}/status

# HTTP Server Configuration
HOST=0.0.0.0
PORT=8000
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_with(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read().problems


def test_nothing_has_to_be_set() -> None:
    findings = read()
    assert findings.settings is not None
    assert (findings.problems, findings.unknown, findings.cautions) == ([], [], [])
    assert findings.settings.topics == TopicTemplates()


def test_the_seed_example_works_once_host_and_placeholders_are_replaced(in_an_empty_folder: Path) -> None:
    (in_an_empty_folder / ".env").write_text(
        SEED.format(host="", username="scada", password="pa$$ word#1", key="0f3c-long-key")
    )
    findings = read()
    settings = findings.settings
    assert settings is not None, findings.problems
    assert findings.unknown == []
    assert (settings.mqtt_broker_port, settings.mqtt_use_tls, settings.mqtt_client_id) == (
        8883,
        True,
        "iiot_bridge_001",
    )
    assert settings.mqtt_broker_username == "scada"
    assert settings.mqtt_broker_password == SecretStr("pa$$ word#1")
    assert (settings.odoo_base_url, settings.odoo_api_key) == ("http://localhost:8069", SecretStr("0f3c-long-key"))
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert settings.topics == TopicTemplates()


def test_the_seed_example_as_it_stands_is_refused_with_every_reason_at_once(in_an_empty_folder: Path) -> None:
    (in_an_empty_folder / ".env").write_text(
        SEED.format(
            host="mqtt.factory.com", username="your_username", password="your_password", key="your_odoo_api_key"
        )
    )
    found = {problem.split(":")[0] for problem in read().problems}
    assert found == {"MQTT_BROKER_HOST", "MQTT_BROKER_USERNAME", "MQTT_BROKER_PASSWORD", "ODOO_API_KEY"}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MQTT_BROKER_HOST", "mqtt.example.com", "not supported yet"),
        ("MQTT_BROKER_PORT", "8883tls", "valid integer"),
        ("MQTT_BROKER_PORT", "65536", "less than or equal to 65535"),
        ("MQTT_PLAIN_PORT", "8883", "same port as MQTT_BROKER_PORT"),
        ("PORT", "8883", "same port as MQTT_BROKER_PORT"),
        ("MQTT_BROKER_USERNAME", "scada", "both, or neither"),
        ("MQTT_BROKER_PASSWORD", "secret-of-scada", "both, or neither"),
        ("MQTT_USE_TLS", "perhaps", "valid boolean"),
        ("MQTT_BIND", "tcp://10.0.0.1", "an address or a host name"),
        ("MQTT_CLIENT_ID", "line\tbreak", "printable characters only"),
        ("MQTT_TELEMETRY_TOPIC_TEMPLATE", "telemetry/+/data", "wildcards are not allowed"),
        (
            "MQTT_COMMAND_TOPIC_TEMPLATE",
            "telemetry/{device}/data",
            "already the topic of MQTT_TELEMETRY_TOPIC_TEMPLATE",
        ),
        ("MQTT_CONFIG_REQUEST_TOPIC", "config/{device}", "does not know its id yet"),
        ("ODOO_BASE_URL", "odoo.example.com", "must look like https://"),
        ("ODOO_BASE_URL", "https://user:secret-of-odoo@odoo.example.com", "ODOO_API_KEY"),
        ("ODOO_BASE_URL", "http://your-odoo-instance:8069", "placeholder"),
        ("ODOO_BASE_URL", "https://odoo.example.com", "is needed when ODOO_BASE_URL is set"),
        ("ODOO_API_KEY", "two words of secret", "no spaces"),
        ("IIOT_API_KEY", "short-secret", "at least 16 characters"),
        ("IIOT_API_KEY", "changeme", "placeholder"),
        ("IIOT_LOG_LEVEL", "loud", "'debug', 'info'"),
        ("IIOT_ADVERTISED_HOST", "gw1.factory.lan:8883", "without scheme and port"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    problems = problems_with(monkeypatch, **{name: value})
    assert any(name in problem and reason in problem for problem in problems), problems
    assert "secret" not in " ".join(problems)


def test_contradictions_are_reported_beside_values_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems_with(
        monkeypatch, MQTT_BROKER_PORT="x", MQTT_BROKER_USERNAME="scada", ODOO_BASE_URL="https://odoo.example.com"
    )
    assert [problem.split(":")[0] for problem in found] == ["MQTT_BROKER_PORT", "MQTT_BROKER_PASSWORD", "ODOO_API_KEY"]


def test_secrets_are_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "MQTT_BROKER_USERNAME": "scada",
        "MQTT_BROKER_PASSWORD": "5ecret-viewer-pass",
        "ODOO_BASE_URL": "http://odoo.example.com",
        "ODOO_API_KEY": "5ecret-odoo-api-key",
        "IIOT_API_KEY": "5ecret-own-api-key",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    findings = read()
    assert findings.settings is not None
    assert "5ecret" not in repr(findings) + str(findings.settings)
    monkeypatch.setenv("PORT", "none")
    with pytest.raises(SettingsError) as caught:
        load()
    assert "5ecret" not in f"{caught.value!r}{caught.value.problems}"
    assert caught.value.__cause__ is None


def test_an_unknown_name_is_told_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch, in_an_empty_folder: Path
) -> None:
    monkeypatch.setenv("MQTT_BROKR_PORT", "1")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    (in_an_empty_folder / ".env").write_text("ODOO_API_KY=5ecret\nIIOT_LOGLEVEL=debug\n")
    findings = read()
    assert findings.settings is not None
    assert findings.unknown == [
        "IIOT_LOGLEVEL is no setting; the nearest known name is IIOT_LOG_LEVEL",
        "MQTT_BROKR_PORT is no setting; the nearest known name is MQTT_BROKER_PORT",
        "ODOO_API_KY is no setting; the nearest known name is ODOO_API_KEY",
    ]


def test_the_environment_goes_before_the_file_and_an_empty_value_means_the_default(
    monkeypatch: pytest.MonkeyPatch, in_an_empty_folder: Path
) -> None:
    (in_an_empty_folder / "other.env").write_bytes("\ufeffPORT=1\nMQTT_PLAIN_PORT=\nIIOT_LOG_LEVEL=DEBUG\n".encode())
    monkeypatch.setenv("PORT", "2")
    monkeypatch.setenv("MQTT_BROKER_PORT", "0")
    settings = load(Path("other.env"))
    assert (settings.port, settings.mqtt_plain_port, settings.mqtt_broker_port) == (2, None, 0)
    assert settings.iiot_log_level == "debug"


def test_a_settings_file_that_was_named_must_be_there(in_an_empty_folder: Path) -> None:
    assert read(Path("none.env")).problems == ["none.env: there is no such file"]
    (in_an_empty_folder / "binary.env").write_bytes(b"PORT=\xff\xfe")
    assert read(Path("binary.env")).problems == ["binary.env: is not UTF-8 text"]


def test_several_free_ports_are_no_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems_with(monkeypatch, MQTT_BROKER_PORT="0", MQTT_PLAIN_PORT="0", PORT="0") == []


def test_under_systemd_the_data_folder_is_the_state_directory(
    monkeypatch: pytest.MonkeyPatch, in_an_empty_folder: Path
) -> None:
    assert load().iiot_data_dir == in_an_empty_folder / "data"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/iiot-appliance")
    assert load().iiot_data_dir == Path("/var/lib/iiot-appliance")


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"HTTP_USE_TLS": "False"}, "HTTP_USE_TLS"),
        ({"MQTT_USE_TLS": "no"}, "MQTT_USE_TLS"),
        ({"ODOO_BASE_URL": "http://odoo.example.com", "ODOO_API_KEY": "key-for-odoo"}, "not https"),
        ({"ODOO_API_KEY": "key-for-odoo"}, "runs alone"),
    ],
)
def test_what_is_allowed_but_unwise_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], word: str
) -> None:
    assert problems_with(monkeypatch, **environment) == []
    (caution,) = read().cautions
    assert word in caution


def settings_table() -> str:
    """The README's table of settings, written from the code."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    special = {"mqtt_client_id": "host name", "iiot_data_dir": "`data`, with systemd `/var/lib/iiot-appliance`"}
    for name, field in Settings.model_fields.items():
        default = special.get(name) or ("" if field.default in (None, "") else f"`{field.default}`")
        lines.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines)


def test_the_readme_lists_every_setting_with_its_default() -> None:
    table = re.search(r"^\| variable .*?(?=\n\n)", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert table is not None
    assert table[0] == settings_table()
