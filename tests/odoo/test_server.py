"""The server that other tests lean on: it answers when it says so, keeps its address, and leaves nothing running."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.odoo.cluster import Cluster
from tests.odoo.databases import exists, filestore, new_database
from tests.odoo.releases import Odoo
from tests.odoo.server import LOGIN, PASSWORD, OdooServer, ServerError, living_processes


def log_in(server: OdooServer) -> int:
    """The number of the user, if Odoo lets in the person a new database has."""
    arguments = {"service": "common", "method": "login", "args": [server.database, LOGIN, PASSWORD]}
    request = urllib.request.Request(
        f"{server.url}/jsonrpc",
        data=json.dumps({"jsonrpc": "2.0", "method": "call", "params": arguments}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["result"]


def test_a_server_that_was_killed_comes_back_at_its_address_with_its_data(
    odoo: Odoo, cluster: Cluster, database: str, tmp_path: Path
) -> None:
    with OdooServer(odoo, cluster, database, workers=1, log=tmp_path / "log") as server:
        url, user = server.url, log_in(server)
        pids = server.pids()
        server.kill()
        assert not server.answers(timeout_s=1)
        assert living_processes(pids[0]) == []
        server.start()
        assert (server.url, log_in(server)) == (url, user)
    assert user > 0
    assert len(pids) > 2, "the master, its worker and the one for long polling"
    assert server.pids() == []


def test_a_server_that_cannot_start_says_why(odoo_19: Odoo, cluster: Cluster, tmp_path: Path) -> None:
    server = OdooServer(odoo_19, cluster, "postgres", log=tmp_path / "log", options=("--no-such-option",))
    with pytest.raises(ServerError, match="no-such-option"):
        server.start()
    server.kill()


def test_copies_of_a_template_have_identities_of_their_own_and_leave_nothing(odoo: Odoo, cluster: Cluster) -> None:
    statement = "SELECT value FROM ir_config_parameter WHERE key = 'database.uuid'"
    with new_database(odoo, cluster) as one, new_database(odoo, cluster) as other:
        uuids = {name: cluster.sql(statement, name) for name in (one, other)}
        assert filestore(odoo, one).is_dir()
    assert uuids[one] != uuids[other]
    assert [name for name in (one, other) if exists(cluster, name) or filestore(odoo, name).exists()] == []
