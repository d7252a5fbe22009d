"""Where the programs come from: a checkout with a package index, and bundles for other processors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import OdooStandIn, free_port
from tests.install.bundles import copy_checkout, make_bundle, unpack, wheels
from tests.install.conftest import MakeMachine
from tests.install.roots import debian

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
"""An index of one's own: a folder. Any other, and the real one, are set in the same way."""


class Watcher:
    """Looks at the command lines of all processes as often as it can, as anybody on the box may."""

    def __init__(self, secret: str) -> None:
        self.seen: set[str] = set()
        self.looks = 0
        self._secret = secret.encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                if self._secret in line:
                    self.seen.add(line.replace(b"\0", b" ").decode(errors="replace"))


async def test_from_a_checkout_and_a_package_index_to_an_appliance_that_odoo_knows(
    machine: MakeMachine, tmp_path: Path
) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    odoo = OdooStandIn(tmp_path / "odoo")
    box = machine(debian("trixie"), network=True, binds={checkout: "/checkout", wheels(): "/wheels"})
    async with odoo:
        async with odoo.client() as client:
            code = (await client.post("/sim/codes", json={})).json()["code"]
            label = (await client.post("/sim/devices", json={"count": 1, "prefix": "press"})).json()["devices"][0]
        options = (
            f"--odoo-url {odoo.url} --enroll - --http-port {free_port()} --mqtt-port {free_port()} --name hall-3"
            " --hostname localhost"
        )
        with Watcher(code) as watcher:
            said = await asyncio.to_thread(
                box.run, f"bash /checkout/install.sh {options}", text=f"{code}\n", timeout_s=300, **OFFLINE
            )
        assert watcher.seen == set()
        assert watcher.looks > 100
        assert "knows this appliance" in said.stderr
        assert "pair it with Odoo" not in said.stdout
        assert box.show("ActiveState") == "active"
        port = box.says("sed -n 's/^PORT=//p' /etc/iiot-appliance/appliance.env")
        async with httpx.AsyncClient(verify=False, trust_env=False) as api:
            answer = await api.post(
                f"https://localhost:{port}/api/v1/config/download",
                json={"serial": label["serial"], "token": label["token"]},
            )
        assert answer.status_code == 200, answer.text
        assert box.says("ls /usr/local/lib/systemd/system/iiot-appliance.service.d") == "back-off.conf"
        assert box.show("RestartSteps") == "6"
        box.run("systemctl start iiot-appliance-backup.service")
        assert len(box.says("ls /var/lib/iiot-appliance-backups").split()) == 1
        assert box.show("ActiveState", "iiot-appliance-backup.timer") == "active"


@pytest.fixture(scope="session")
def arm64(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm64")
    unpack(make_bundle(folder, "arm64"), folder / "version")
    return folder / "version"


def test_a_bundle_for_arm64_has_all_that_either_python_needs_there_and_nothing_of_this_processor(
    arm64: Path, tmp_path: Path
) -> None:
    assert (arm64 / "ARCHITECTURE").read_text() == "arm64\n"
    tags = {wheel.name.rsplit("-", 1)[1] for wheel in (arm64 / "wheels").glob("*.whl")}
    assert "any.whl" in tags
    assert [tag for tag in tags if "aarch64" not in tag and tag != "any.whl"] == []
    for python in ("3.11", "3.13"):
        command = [sys.executable, "-m", "pip", "download", "--isolated", "-q", "--no-index"]
        command += ["--find-links", str(arm64 / "wheels"), "--only-binary=:all:", "--implementation", "cp"]
        # what a Raspberry Pi's pip accepts, among others
        command += ["--python-version", python, "--dest", str(tmp_path / python), "iiot-appliance"]
        command += [f"--platform={tag}_aarch64" for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
