"""The command line against an appliance that runs, each command a process of its own, over HTTPS as installed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.cli import Exit
from appliance.contract.odoo import Kind
from appliance.store.buffer import Buffer, Rejection
from appliance.store.database import Database
from tests.e2e.harness import Appliance, OdooStandIn, answers, clean_environment, free_port

WITHIN_S = 30


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == Exit.OK, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)


class Installed(Appliance):
    """With HTTPS and a key that it made itself, as on a box; ``settings`` are those of its commands too."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.settings = {
            "MQTT_BIND": "127.0.0.1",
            "MQTT_BROKER_PORT": str(free_port()),
            "MQTT_PLAIN_PORT": str(free_port()),
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "IIOT_DATA_DIR": str(folder / "data"),
            "MQTT_CLIENT_ID": "gateway-7",
            **settings,
        }
        everything = {"HTTP_USE_TLS": "True", "IIOT_API_KEY": "", **self.settings}
        super().__init__(folder, environment=everything)
        self.folder = folder
        self.mqtt_port = int(self.settings["MQTT_PLAIN_PORT"])
        self.url = f"https://127.0.0.1:{self.settings['PORT']}"

    async def is_ready(self) -> bool:
        if self.settings.get("HTTP_USE_TLS") == "False":
            return await answers("127.0.0.1", int(self.settings["PORT"]), "/health")
        try:
            async with httpx.AsyncClient(verify=False) as client:
                return (await client.get(f"{self.url}/health")).status_code == 200
        except httpx.TransportError:
            return False

    async def type(self, *arguments: str, **changed: str) -> Result:
        """Run a command beside it."""
        return await command(*arguments, folder=self.folder, settings={**self.settings, **changed})

    @property
    def key(self) -> str:
        return (self.data_folder / "api_key").read_text().strip()


async def command(*arguments: str, folder: Path, settings: Mapping[str, str]) -> Result:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "appliance", *arguments),
        cwd=folder,
        env=clean_environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert b"Traceback" not in err, err.decode()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Installed]:
    async with Installed(tmp_path) as box:
        yield box


async def pair(box: Installed, odoo: OdooStandIn) -> str:
    async with odoo.client() as client:
        label = (await client.post("/sim/devices", json={"count": 1, "prefix": "press"})).json()["devices"][0]
    async with httpx.AsyncClient(verify=False, timeout=20) as client:
        answer = await client.post(f"{box.url}/api/v1/config/download", json=label)
    device_id: str = answer.json()["device_id"]
    return device_id


async def test_status_and_buffer_tell_how_it_is(box: Installed) -> None:
    status = await box.type("status")
    assert status.status == Exit.OK, status.err
    assert "gateway-7" in status.out
    assert "not configured" in status.out
    as_json = (await box.type("status", "--json")).json
    assert (as_json["status"], as_json["name"], as_json["buffer"]["waiting"]) == ("ok", "gateway-7", 0)
    assert "waiting for Odoo" in (await box.type("buffer")).out
    assert (await box.type("buffer", "--json")).json["waiting"] == 0


async def test_status_says_by_its_exit_status_that_somebody_should_look(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with Installed(tmp_path, ODOO_BASE_URL=nobody, ODOO_API_KEY="k" * 20) as box:
        async with stopped(box) as (database, buffer):
            buffer.append("press-07", Kind.TELEMETRY, b"{}", received_at_ms=1_700_000_000_000)
            await database.run(lambda _: None)
        async with asyncio.timeout(WITHIN_S):
            while (status := await box.type("status")).status == Exit.OK:
                await asyncio.sleep(0.1)
        assert status.status == Exit.DEGRADED
        assert "does not answer" in status.out


async def test_devices_are_listed_and_shown(tmp_path: Path) -> None:
    async with OdooStandIn(tmp_path / "odoo") as odoo, Installed(tmp_path / "box", **odoo.settings) as box:
        assert (await box.type("devices", "list")).out == "No device is paired.\n"
        device = await pair(box, odoo)
        listed = (await box.type("devices", "list", "--status", "unknown", "--json")).json["devices"]
        assert [each["device_id"] for each in listed] == [device]
        assert device in (await box.type("devices", "list")).out
        assert (await box.type("devices", "list", "--search", "nothing-like-it")).out == "No device fits.\n"
        shown = (await box.type("devices", "show", device, "--json")).json
        assert shown["counters"]["received"] == 0
        assert "counters received" in (await box.type("devices", "show", device)).out
        for other in ("nobody", "../../buffer", "a/b?c#d"):
            unknown = await box.type("devices", "show", other)
            assert (unknown.status, unknown.out) == (Exit.REFUSED, "")


@asynccontextmanager
async def stopped(box: Installed) -> AsyncIterator[tuple[Database, Buffer]]:
    """The appliance's store, while the appliance is stopped for it."""
    await box.stop()
    database = await Database.open(box.data_folder)
    buffer = Buffer(database)
    await buffer.load()
    yield database, buffer
    await database.close()
    await box.start()


async def park(box: Installed, count: int, *, message: str = "no rule takes it") -> None:
    """Readings of two devices that Odoo refused."""
    async with stopped(box) as (_, buffer):
        for number in range(count):
            buffer.append(f"press-{number % 2}", Kind.TELEMETRY, b'{"n":%d}' % number, received_at_ms=1_700_000_000_000)
        await buffer.settle([], [Rejection(seq, "no_rule", message) for seq in range(1, count + 1)])


async def test_dead_letters_are_listed_exported_retried_and_removed(box: Installed) -> None:
    await park(box, 6)
    listed = (await box.type("dead-letters", "list", "--device", "press-0", "--limit", "2", "--json")).json
    assert [letter["id"] for letter in listed["dead_letters"]] == [1, 3]
    page = await box.type("dead-letters", "list", "--device", "press-0", "--limit", "2", "--payload")
    assert "--after 3" in page.err
    assert '{"n":0}' in page.out
    assert "no rule takes it" in page.out

    exported = await box.type("dead-letters", "export", "--code", "no_rule")
    assert [json.loads(line)["payload"]["n"] for line in exported.out.splitlines()] == list(range(6))
    done = await box.type("dead-letters", "export", "--output", "letters.ndjson", "--json")
    assert done.json["exported"] == 6
    file = box.folder / "letters.ndjson"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = await box.type("dead-letters", "export", "--output", "letters.ndjson")
    assert (again.status, file.read_text()) == (Exit.FAILED, exported.out)

    assert (await box.type("dead-letters", "retry", "1", "2", "--json")).json == {"retried": 2, "skipped": 0}
    assert (await box.type("dead-letters", "retry", "--device", "press-0")).out == "Sent again: 2.\n"
    assert (await box.type("buffer", "--json")).json["waiting"] == 4
    unconfirmed = await box.type("dead-letters", "remove", "--all")
    assert (unconfirmed.status, "--yes" in unconfirmed.err) == (Exit.SETTINGS, True)
    assert (await box.type("dead-letters", "remove", "4", "--json")).json == {"removed": 1}
    assert (await box.type("dead-letters", "remove", "--all", "--yes", "--json")).json == {"removed": 1}
    gone = await box.type("dead-letters", "remove", "4")
    assert (gone.status, "unknown_dead_letter" in gone.err) == (Exit.REFUSED, True)
    assert (await box.type("dead-letters", "list")).out == "There is none.\n"


async def test_more_dead_letters_than_one_request_takes_are_all_changed(
    box: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await park(box, 2100)
    assert (await box.type("dead-letters", "retry", "--device", "press-0", "--json")).json["retried"] == 1050
    assert (await box.type("dead-letters", "remove", "--kind", "telemetry", "--yes", "--json")).json["removed"] == 1050


@pytest.mark.parametrize(
    "arguments", [("retry",), ("retry", "1", "--all"), ("remove", "--yes"), ("remove", "x"), ("list", "--limit", "0")]
)
async def test_a_command_that_does_not_say_what_it_is_for_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = await command("dead-letters", *arguments, folder=tmp_path, settings={})
    assert (result.status, result.out) == (Exit.SETTINGS, "")
    assert result.err


async def test_what_a_peer_wrote_does_not_reach_the_terminal_as_control_characters(box: Installed) -> None:
    await park(box, 1, message="\x1b[2Jgone\x9b31m")
    for arguments in (("list",), ("list", "--json")):
        result = await box.type("dead-letters", *arguments)
        assert "gone" in result.out
        assert "\x1b" not in result.out
        assert "\x9b" not in result.out


async def test_keys_are_made_used_listed_and_revoked(box: Installed) -> None:
    made = await box.type("api-keys", "create", "grafana", "--scope", "metrics")
    key = made.out.strip()
    async with httpx.AsyncClient(verify=False, headers={"X-API-Key": key}) as client:
        assert (await client.get(f"{box.url}/metrics")).status_code == 200
        assert (await client.get(f"{box.url}/api/v1/buffer")).status_code == 403
        assert (await box.type("api-keys", "create", "grafana")).status == Exit.REFUSED
        assert (await box.type("api-keys", "create", "odoo", "--json")).json["scope"] == "read"
        listed = await box.type("api-keys", "list")
        assert "built-in" in listed.out
        assert key not in listed.out
        assert (await box.type("api-keys", "revoke", "grafana")).out == "The key grafana is revoked.\n"
        assert (await client.get(f"{box.url}/metrics")).status_code == 401
    names = [key["name"] for key in (await box.type("api-keys", "list", "--json")).json["api_keys"]]
    assert names == ["built-in", "odoo"]
    assert (await box.type("api-keys", "revoke", "grafana")).status == Exit.REFUSED


async def test_the_key_of_the_data_folder_reaches_nobody_who_is_not_the_appliance(
    box: Installed, tmp_path: Path
) -> None:
    async with Installed(tmp_path / "other") as other:
        result = await box.type("status", PORT=other.settings["PORT"])
        assert result.status == Exit.MISMATCH
        assert "not from this data folder" in result.err
        assert "wrong credentials" not in other.log


async def test_an_appliance_that_does_not_run_has_an_exit_status_of_its_own(box: Installed) -> None:
    other_port = await box.type("status", PORT=str(free_port()))
    assert (other_port.status, "another HOST or PORT" in other_port.err) == (Exit.MISMATCH, True)
    no_tls = await box.type("status", HTTP_USE_TLS="False")
    assert (no_tls.status, "HTTP_USE_TLS" in no_tls.err) == (Exit.MISMATCH, True)
    wrong_key = await box.type("status", IIOT_API_KEY="another-key-than-its-own")
    assert (wrong_key.status, "IIOT_API_KEY" in wrong_key.err) == (Exit.REFUSED, True)
    await box.stop()
    ended = await box.type("devices", "list")
    assert (ended.status, "not running" in ended.err) == (Exit.NOT_RUNNING, True)


async def test_plain_http_is_spoken_where_the_settings_say_so_and_told_apart(tmp_path: Path) -> None:
    async with Installed(tmp_path, HTTP_USE_TLS="False") as box:
        assert (await box.type("status")).status == Exit.OK
        tls = await box.type("status", HTTP_USE_TLS="True")
        assert (tls.status, "does not speak TLS" in tls.err) == (Exit.MISMATCH, True)


async def test_a_command_without_the_key_that_the_appliance_was_given_says_so(tmp_path: Path) -> None:
    async with Installed(tmp_path, IIOT_API_KEY="a-key-from-the-settings") as box:
        assert (await box.type("status")).status == Exit.OK
        without = await box.type("status", IIOT_API_KEY="")
        assert (without.status, "started with other settings" in without.err) == (Exit.MISMATCH, True)
        assert "IIOT_API_KEY" in without.err


async def test_a_data_folder_that_is_missing_or_was_never_used_is_told(tmp_path: Path) -> None:
    missing = await command("status", folder=tmp_path, settings={"IIOT_DATA_DIR": str(tmp_path / "none")})
    assert (missing.status, "IIOT_DATA_DIR" in missing.err) == (Exit.DATA_FOLDER, True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "data").mkdir()
    unused = await command("status", folder=tmp_path, settings={})
    assert (unused.status, (tmp_path / "data" / "api_key").exists()) == (Exit.NOT_RUNNING, False)
    bad = await command("status", folder=tmp_path, settings={"PORT": "x"})
    assert (bad.status, "PORT" in bad.err) == (Exit.SETTINGS, True)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
async def test_the_wrong_user_is_told_whose_folder_it_is() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        async with Installed(Path(folder)) as box:
            await as_nobody(box)


async def as_nobody(box: Installed) -> None:
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *(sys.executable, "-c", _AS_SOMEBODY_ELSE),
        cwd="/",
        env=clean_environment(box.settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    if b"No module named" in err or b"Permission denied: '/" in err:
        pytest.skip("another user cannot read this Python")
    assert (process.returncode, b"as the user root" in err) == (Exit.DATA_FOLDER, True), err


_AS_SOMEBODY_ELSE = "from appliance.cli import main; main(['status'])"


async def test_the_help_of_every_level_needs_neither_settings_nor_appliance(tmp_path: Path) -> None:
    for arguments in ((), ("devices",), ("dead-letters", "retry")):
        result = await command(*arguments, "--help", folder=tmp_path, settings={"PORT": "x"})
        assert result.status == Exit.OK
        assert "Usage: iiot-appliance" in result.out


# --- check-config ---------------------------------------------------------------------------------------------


async def test_a_box_that_runs_is_in_order_and_another_s_ports_are_not(box: Installed, tmp_path: Path) -> None:
    own = await box.type("check-config")
    assert (own.status, own.out) == (Exit.OK, "The settings can be used.\n")
    folder = str(tmp_path / "second" / "data")
    other = await box.type("check-config", "--json", IIOT_DATA_DIR=folder)
    assert other.status == Exit.ADDRESS
    problems = json.loads(other.out)["problems"]
    assert [problem.split(":")[0] for problem in problems] == ["MQTT_BROKER_PORT", "MQTT_PLAIN_PORT", "PORT"]
    assert not (tmp_path / "second").exists()


async def test_odoo_is_asked_where_it_is_wished(tmp_path: Path) -> None:
    free = {"MQTT_BROKER_PORT": str(free_port()), "PORT": str(free_port())}
    async with OdooStandIn(tmp_path / "odoo") as odoo:
        good = await command("check-config", "--online", folder=tmp_path, settings={**free, **odoo.settings})
        assert (good.status, good.out) == (Exit.OK, "The settings can be used, and Odoo answers.\n")
        wrong = {**free, **odoo.settings, "ODOO_API_KEY": "not-the-key-of-this-odoo"}
        refused = await command("check-config", "--online", folder=tmp_path, settings=wrong)
        assert (refused.status, "not-the-key" in refused.out) == (Exit.ODOO, False)
        assert "refuses this gateway" in refused.out
    away = await command("check-config", "--online", folder=tmp_path, settings={**free, **odoo.settings})
    assert (away.status, "does not answer" in away.out) == (Exit.ODOO, True)
    nobody = await command("check-config", "--online", folder=tmp_path, settings=free)
    assert nobody.status == Exit.ODOO


# --- enroll ---------------------------------------------------------------------------------------------------


async def new_code(odoo: OdooStandIn) -> str:
    async with odoo.client() as client:
        code: str = (await client.post("/sim/codes")).json()["code"]
        return code


async def key_names(box: Installed) -> list[str]:
    return [key["name"] for key in (await box.type("api-keys", "list", "--json")).json["api_keys"]]


async def test_a_code_makes_odoo_and_appliance_known_to_each_other(tmp_path: Path) -> None:
    async with OdooStandIn(tmp_path / "odoo") as odoo, Installed(tmp_path / "box") as box:
        code = await new_code(odoo)
        enrolled = await box.type("enroll", "--odoo", odoo.url, "--code", code)
        assert enrolled.status == Exit.OK, enrolled.err
        assert "Restart the appliance" in enrolled.out
        assert await key_names(box) == ["built-in", "odoo"]
        assert stat.S_IMODE((box.data_folder / "odoo.json").stat().st_mode) == 0o600
        again = await box.type("enroll", "--odoo", odoo.url, "--code", code)
        assert (again.status, "has been used" in again.err) == (Exit.ODOO, True)
        assert await key_names(box) == ["built-in", "odoo"], "no key is left of an enrolment that failed"
        renewed = await box.type("enroll", "--odoo", odoo.url, "--code", await new_code(odoo), "--json")
        assert (renewed.json["api_key"], renewed.json["overruled"]) == ("odoo-2", False)
        assert await key_names(box) == ["built-in", "odoo-2"], "the earlier one ends"
        online = await box.type("check-config", "--online")
        assert online.status == Exit.OK, online.out
        await box.stop()
        await box.start()
        async with asyncio.timeout(WITHIN_S):
            while (await box.type("status", "--json")).json["uplink"]["reachable"] is not True:
                await asyncio.sleep(0.1)


async def test_an_enrolment_that_cannot_be_says_why_and_leaves_nothing(box: Installed) -> None:
    nobody = await box.type("enroll", "--odoo", f"http://127.0.0.1:{free_port()}", "--code", "x")
    assert (nobody.status, "not enrolled" in nobody.err) == (Exit.ODOO, True)
    bad_url = await box.type("enroll", "--odoo", "odoo.example.com", "--code", "x")
    assert (bad_url.status, "--odoo must look like" in bad_url.err) == (Exit.SETTINGS, True)
    assert await key_names(box) == ["built-in"]
    assert not (box.data_folder / "odoo.json").exists()
    assert (await box.type("enroll", "--odoo", "https://odoo.example.com")).status == Exit.SETTINGS


async def test_a_box_that_does_not_run_is_enrolled_without_a_key_for_odoo(tmp_path: Path) -> None:
    async with OdooStandIn(tmp_path / "odoo") as odoo:
        settings = {"IIOT_DATA_DIR": str(tmp_path / "data"), "PORT": str(free_port())}
        arguments = ("enroll", "--odoo", odoo.url, "--code", await new_code(odoo))
        refused = await command(*arguments, folder=tmp_path, settings=settings)
        assert refused.status in (Exit.NOT_RUNNING, Exit.DATA_FOLDER)
        done = await command(*arguments, "--no-api-key", "--json", folder=tmp_path, settings=settings)
        assert done.json["api_key"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_what_root_enrols_belongs_to_whom_the_data_folder_belongs(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name) / "data"
        folder.mkdir()
        os.chown(folder, 65534, 65534)
        async with OdooStandIn(tmp_path / "odoo") as odoo:
            settings = {"IIOT_DATA_DIR": str(folder)}
            arguments = ("enroll", "--odoo", odoo.url, "--code", await new_code(odoo), "--no-api-key")
            done = await command(*arguments, folder=tmp_path, settings=settings)
        assert done.status == Exit.OK, done.err
        assert {path.stat().st_uid for path in folder.rglob("*")} == {65534}


async def test_check_finds_an_appliance_in_order_and_says_what_is_not(box: Installed) -> None:
    """Everything but what a box in a test cannot have."""
    asks_odoo = ("dns", "odoo", "odoo_clock", "contract", "recovery")
    expected = dict.fromkeys(asks_odoo, "skipped")
    small = {"IIOT_BUFFER_QUOTA_MB": "16", "HTTP_USE_TLS": "True"}
    result = await box.type("check", "--json", **small)
    verdicts = {check["name"]: check for check in json.loads(result.out)["checks"]}
    slow = verdicts.pop("disk_speed")
    assert slow["verdict"] in ("ok", "warning"), slow
    for name, check in verdicts.items():
        assert check["verdict"] == expected.get(name, "ok"), check
    assert result.status == (Exit.OK if slow["verdict"] == "ok" else Exit.DEGRADED)
    key = box.data_folder / "master.key"
    key.chmod(0o644)
    result = await box.type("check", **small)
    assert result.status == Exit.FAILING
    assert f"chmod go-rwx {key}" in result.out
    key.chmod(0o600)
    await box.stop()
    result = await box.type("check", "--json", **small)
    verdicts = {check["name"]: check["verdict"] for check in json.loads(result.out)["checks"]}
    assert (verdicts["health"], verdicts["ports"], verdicts["database"]) == ("skipped", "ok", "ok")


async def test_a_code_need_not_be_seen_by_everybody_on_the_machine(tmp_path: Path) -> None:
    async with OdooStandIn(tmp_path / "odoo") as odoo:
        settings = {"IIOT_DATA_DIR": str(tmp_path / "data"), "PORT": str(free_port())}
        arguments = ("enroll", "--odoo", odoo.url, "--no-api-key", "--json")
        nothing = await command(*arguments, folder=tmp_path, settings=settings)
        assert (nothing.status, "--code -" in nothing.err) == (Exit.SETTINGS, True)
        given = {**settings, "ENROLL_CODE": await new_code(odoo)}
        assert (await command(*arguments, folder=tmp_path, settings=given)).status == Exit.OK
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "appliance", *arguments, "--code", "-"),
            cwd=tmp_path,
            env=clean_environment(settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(f"{await new_code(odoo)}\n".encode()), WITHIN_S)
        assert (process.returncode, json.loads(out)["odoo"]) == (Exit.OK, odoo.url)


# --- page-password --------------------------------------------------------------------------------------------


async def logs_in(box: Installed, password: str) -> bool:
    async with httpx.AsyncClient(verify=False, base_url=box.url.replace("http://", "https://")) as client:
        return (await client.post("/ui/login", data={"password": password})).status_code == 303


async def test_the_password_of_the_pages_is_shown_once_set_and_reset(box: Installed) -> None:
    first = (await box.type("page-password", "show")).out.strip()
    assert (await box.type("page-password", "show", "--json")).json == {"password": first}
    assert await logs_in(box, first)
    used = await box.type("page-password", "show")
    assert (used.status, "page-password reset" in used.err) == (Exit.REFUSED, True)
    made = await box.type("page-password", "reset")
    assert made.status == Exit.OK
    assert (await logs_in(box, first), await logs_in(box, made.out.strip())) == (False, True)
    again = (await box.type("page-password", "reset", "--json")).json["password"]
    assert await logs_in(box, again)
    assert first not in box.log
    assert again not in box.log
