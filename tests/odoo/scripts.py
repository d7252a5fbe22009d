"""Python inside a real Odoo, and add-ons of the tests beside our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.odoo import databases
from tests.odoo.cache import cache_folder
from tests.odoo.cluster import Cluster, free_port
from tests.odoo.databases import DatabaseError, connection, run_odoo, tail
from tests.odoo.releases import Odoo

ADDONS = (*databases.ADDONS, Path(__file__).parent / "addons")
"""For :class:`~tests.odoo.server.OdooServer` on a database that has any of them."""
MARK = "result of the script: "


def log_of(database: str, purpose: str) -> Path:
    return cache_folder() / "logs" / f"{database}-{purpose}.log"


def add_modules(odoo: Odoo, cluster: Cluster, database: str, *names: str) -> None:
    """Install add-ons from the folder ``addons`` beside this file. Raises :class:`DatabaseError`."""
    log = log_of(database, "install")
    command = odoo.command(
        *(*connection(odoo, cluster, database), "-i", ",".join(names), "--stop-after-init"),
        *(f"--http-port={free_port()}", "--max-cron-threads=0"),
        addons=ADDONS,
    )
    if run_odoo(odoo, command, log) != 0:
        raise DatabaseError(f"{', '.join(names)} cannot be installed:\n{tail(log)}")


def run_script(odoo: Odoo, cluster: Cluster, database: str, script: str, **values: Any) -> Any:
    """
    Run a script in Odoo's shell, with ``env`` and these values (plain JSON) as names; what it gives to ``answer(…)``.

    What it is to leave behind it commits itself. Raises :class:`DatabaseError`.
    """
    command = odoo.command(*connection(odoo, cluster, database), "--no-http", addons=ADDONS)
    command[command.index("server")] = "shell"
    names = f"import json\nglobals().update(json.loads({json.dumps(values)!r}))\n"
    answer = f"def answer(value):\n    print({MARK!r} + json.dumps(value))\n"
    log = log_of(database, "script")
    if run_odoo(odoo, command, log, text=f"exec({names + answer + script!r})\n", timeout_s=3600) != 0:
        raise DatabaseError(f"the script failed:\n{tail(log)}")
    for line in log.read_text().splitlines():
        if MARK in line:
            return json.loads(line.split(MARK)[1])
    raise DatabaseError(f"the script gave no answer:\n{tail(log)}")
