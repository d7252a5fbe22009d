"""What goes to support holds no secret, whatever lies about on the box, and stays small."""

from __future__ import annotations

import base64
import json
import os
import tarfile
from pathlib import Path

import pytest

from appliance.cli import diagnosis, machine
from appliance.cli.checks import Surroundings
from appliance.cli.scrubbing import MASK, Scrubber
from appliance.identity import read_identity
from appliance.secret_files import master_key
from appliance.services.credentials import Credentials
from appliance.settings import read

VIEWER, API_KEY, ODOO_KEY, BACKUP = (
    'viewer\'s "pass"word',
    "api-key-2718281828459",
    "odoo-key-31415926535",
    "correct horse",
)
UUID = "0198c2de-9d5c-7cc1-9f4a-1f0e2d3c4b5a"


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read().decode() for info in tar}  # type: ignore[union-attr]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """With a secret wherever there can be one."""
    data = tmp_path / "data"
    for name, value in {
        "IIOT_DATA_DIR": str(data),
        "PORT": "0",
        "MQTT_BROKER_PORT": "0",
        "MQTT_BROKER_USERNAME": "scada",
        "MQTT_BROKER_PASSWORD": VIEWER,
        "IIOT_API_KEY": API_KEY,
        "ODOO_API_KEY": ODOO_KEY,
        "ODOO_BASE_URL": "http://127.0.0.1:1",
        "IIOT_BACKUP_PASSPHRASE": BACKUP,
    }.items():
        monkeypatch.setenv(name, value)
    findings = read()
    assert findings.settings is not None, findings
    read_identity(findings.settings)
    (data / "api_key").write_text("own-key-16180339887498948482\n")
    (data / "odoo.json").write_text(json.dumps({"id": UUID, "api_key": "enrolled-key-577215664901"}))
    (data / "recovery.json").write_text(json.dumps({"salt": "c2FsdHNhbHRzYWx0", "key": "cmVjb3Zlcnlrbm93"}))
    return Surroundings(findings)


def planted(box: Surroundings) -> dict[str, str]:
    key = master_key(box.folder)
    return {
        "viewer": VIEWER,
        "viewer as JSON": json.dumps(VIEWER)[1:-1],
        "api key": API_KEY,
        "odoo key": ODOO_KEY,
        "backup passphrase": BACKUP,
        "own key": "own-key-16180339887498948482",
        "enrolled key": "enrolled-key-577215664901",
        "recovery key": "cmVjb3Zlcnlrbm93",
        "master key": base64.b64encode(key).decode(),
        "master key as hex": key.hex(),
        "device secret": Credentials(key).password("press-07", 3),
        "named API key": "iiot_k3jd82ab_" + "9f" * 32,
        "signed link": "https://gw1/firmware/" + "ab" * 32 + "?t=" + base64.urlsafe_b64encode(b"\1" * 24).decode(),
        "pairing token": '{"serial": "SN-1", "token": "K7QF-22XW"}',
        "private key": (box.folder / "tls" / "authority.pem").read_text(),
    }


def test_no_secret_is_in_the_archive_though_each_lies_in_the_log_and_in_what_tools_say(
    box: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = planted(box)
    log = "\n".join(f"2026-11-22 gw appliance: {name}: {secret}" for name, secret in secrets.items())
    log += f"\nepoch {UUID} iiot_mqtt_connections_accepted_total 12 press-07 went offline"
    monkeypatch.setattr(machine, "output", lambda command, **_: log)
    monkeypatch.setattr(machine, "LOG_LINES", 10)
    path = tmp_path / "diag.tar.gz"
    names = diagnosis.write_archive(path, diagnosis.members(box))
    found = unpacked(path)
    assert {"settings.json", "checks.json", "log.txt", "machine.txt", "about.json", "files.txt"} <= set(names)
    everything = "\n".join(found.values())
    for name, secret in secrets.items():
        for line in secret.splitlines():
            if name not in ("signed link", "pairing token", "private key"):
                assert line not in everything, name
    assert "K7QF-22XW" not in everything
    assert "?t=AQEB" not in everything
    assert "PRIVATE KEY" not in everything
    for kept in (UUID, "iiot_mqtt_connections_accepted_total", "press-07 went offline"):
        assert kept in found["iiot-diag/log.txt"], "what helps must stay"
    settings = json.loads(found["iiot-diag/settings.json"])["settings"]
    assert settings["IIOT_API_KEY"] == {"value": "(set)", "given": True}
    assert settings["IIOT_BUFFER_QUOTA_MB"] == {"value": 4096, "given": False}
    assert os.stat(path).st_mode & 0o077 == 0
    assert json.loads(found["iiot-diag/about.json"])["libraries"]["amqtt"]


def test_a_box_whose_settings_cannot_be_used_gets_its_archive_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("IIOT_API_KEY", API_KEY)
    path = tmp_path / "diag.tar.gz"
    diagnosis.write_archive(path, diagnosis.members(Surroundings(read())))
    found = unpacked(path)
    assert "PORT" in found["iiot-diag/settings.json"]
    assert API_KEY not in "".join(found.values())


def test_the_archive_is_bounded_and_keeps_the_end_of_what_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "MOST_MEMBER_BYTES", 1000)
    monkeypatch.setattr(diagnosis, "MOST_BYTES", 2500)
    texts = ((f"{number}.txt", "a" * 5000 + f" end {number}") for number in range(5))
    diagnosis.write_archive(tmp_path / "diag.tar.gz", texts)
    found = list(unpacked(tmp_path / "diag.tar.gz").values())
    assert [len(text) for text in found] == [1000, 1000, 500, 0, 0]
    assert found[0].endswith(" end 0")


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter22",
        "authorization: Bearer abcd1234efgh",
        "{'api_key': 'short-1'}",
        "token: K7QF-22XW",
        "the code=AAAA-BBBB was refused",
    ],
)
def test_what_is_called_a_secret_is_masked_though_nobody_knows_it(text: str) -> None:
    cleaned = Scrubber([]).clean(text)
    assert MASK in cleaned
    for secret in ("hunter22", "abcd1234efgh", "short-1", "K7QF-22XW", "AAAA-BBBB"):
        assert secret not in cleaned


@pytest.mark.parametrize(
    "text", [f"epoch {UUID}", "iiot_uplink_consecutive_failures", "code 4 or 5", "-" * 60, "press-07: keep_alive"]
)
def test_what_helps_stays(text: str) -> None:
    assert Scrubber(["some-secret"]).clean(text) == text
