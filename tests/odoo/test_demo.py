"""``demo --odoo``: everything on this machine with a real Odoo, and the same verdict at the end."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CLEAN_ENVIRONMENT, ROOT
from tests.odoo.releases import Odoo
from tests.odoo.server import PASSWORD

pytestmark = pytest.mark.xdist_group("odoo-demo")
WITHIN_S = 300


def test_the_demo_with_a_real_odoo_says_where_it_is_and_that_every_reading_arrived_once(
    odoo_19: Odoo, tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "firmware_sim", "demo", "--odoo", "--seconds", "4", "--devices", "3"],
        cwd=ROOT,
        env={**CLEAN_ENVIRONMENT, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert result.returncode == 0, result.stdout
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["in_odoo"] == figures["acknowledged"] == figures["published"] > 0, figures
    assert (figures["paired"], figures["update"]) == (3, "installed")
    assert figures["commands_done"] == figures["commands_sent"]
    assert list(tmp_path.iterdir()) == [], "nothing of it stays behind"
    place = re.search(rf"http://127\.0\.0\.1:(\d+)/ \(login admin, password {PASSWORD}\)", result.stdout)
    assert place, result.stdout
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(place[1]))) != 0, "Odoo still runs"
