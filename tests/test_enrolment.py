"""Enrolling: the key goes from Odoo into a file for this user alone, and nowhere else; the environment goes first."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from appliance.enrolment import FILE_NAME, enroll, read_access
from appliance.errors import DataFolderError, OdooRefusedError, OdooUnavailableError, SettingsError
from appliance.settings import Settings
from tests.firmware_sim.stand_in import stand_in


@pytest.fixture(scope="module")
def odoo() -> Iterator[dict[str, str]]:
    with stand_in() as addresses:
        yield addresses


def settings(folder: Path, url: str = "", key: str | None = None) -> Settings:
    secret = None if key is None else SecretStr(key)
    return Settings(iiot_data_dir=folder, odoo_base_url=url, odoo_api_key=secret, mqtt_client_id="line 1")


def new_code(odoo: dict[str, str]) -> str:
    return str(httpx.post(f"{odoo['control_url']}/sim/codes", json={}, trust_env=False).json()["code"])


def is_taken(odoo: dict[str, str], key: str, gateway: str) -> bool:
    """Whether Odoo takes a batch with this key."""
    body = {"contract": 1, "gateway": gateway, "epoch": "e", "floor": 1, "settled": 0, "messages": []}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{odoo['url']}/iiot/webhook", json=body, headers=headers, trust_env=False).status_code == 200


async def test_a_code_becomes_a_key_in_a_file_for_this_user_alone(
    tmp_path: Path, odoo: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ours = settings(tmp_path)
    done = await enroll(ours, odoo_url=odoo["url"] + "/", code=new_code(odoo))
    path = tmp_path / FILE_NAME
    assert (done.path, done.overruled) == (path, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    access = read_access(ours)
    assert access is not None
    key = access.api_key.get_secret_value()
    assert (access.base_url, access.database_uuid) == (odoo["url"], done.database_uuid)
    assert access.consent == json.loads(path.read_bytes())["id"]
    assert is_taken(odoo, key, (tmp_path / "gateway_uid").read_text().strip())
    assert key not in caplog.text
    assert key not in repr(access) + repr(done)


async def test_a_new_enrolment_is_another_consent(tmp_path: Path, odoo: dict[str, str]) -> None:
    consents = set()
    for _ in range(2):
        await enroll(settings(tmp_path), odoo_url=odoo["url"], code=new_code(odoo))
        access = read_access(settings(tmp_path))
        consents.add(access.consent if access else None)
    assert len(consents) == 2


async def test_the_environment_goes_before_the_file_and_its_consent_counts_for_the_same_odoo(
    tmp_path: Path, odoo: dict[str, str]
) -> None:
    for url, consented in ((odoo["url"], True), ("http://127.0.0.1:1", False)):
        given = settings(tmp_path, url, "a-key-from-the-environment")
        done = await enroll(given, odoo_url=odoo["url"], code=new_code(odoo))
        assert done.overruled
        access = read_access(given)
        assert access is not None
        assert (access.base_url, access.api_key.get_secret_value()) == (url, "a-key-from-the-environment")
        assert (access.consent is not None) is consented


async def test_what_goes_wrong_leaves_the_file_as_it_was(tmp_path: Path, odoo: dict[str, str]) -> None:
    await enroll(settings(tmp_path), odoo_url=odoo["url"], code=new_code(odoo))
    before = (tmp_path / FILE_NAME).read_bytes()
    for url, code, error in (
        (odoo["url"], "WRONG", OdooRefusedError),
        ("http://127.0.0.1:1", "X", OdooUnavailableError),
        ("no address", "X", SettingsError),
    ):
        with pytest.raises(error):
            await enroll(settings(tmp_path), odoo_url=url, code=code)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_without_settings_and_file_the_appliance_runs_alone(tmp_path: Path) -> None:
    assert read_access(settings(tmp_path)) is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"id": 5}', b"\xff"])
def test_a_damaged_file_is_an_error_that_says_what_to_do_and_no_secret(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(DataFolderError, match="enrol"):
        read_access(settings(tmp_path))
