"""
Databases for tests, copied from templates that are made once.

Two levels: Odoo with the modules that tests need, kept for each Odoo; and that with the add-on installed, kept for each
state of the add-on's files. A copy takes about a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.odoo.cache import ROOT, cache_folder, files_hash, held, lock_file, say, short_hash, unused
from tests.odoo.cluster import Cluster, free_port
from tests.odoo.releases import Odoo

MODULES = ("base", "web", "mail", "maintenance", "base_automation")
ADDON = "industrial_iot"
ADDONS = (ROOT / "odoo_addon",)
OWN = tuple(sorted(manifest.parent.name for manifest in ADDONS[0].glob("*/__manifest__.py")))
"""All add-ons of this project; those beside :data:`ADDON` are installed by Odoo itself, with what they join."""
KEPT_TEMPLATES = 4
"""How many states of the add-on keep their template, for each Odoo."""
KEPT_LOGS = 200

WARM_UP = "env['ir.qweb']._pregenerate_assets_bundles(); env.cr.commit()\n"
"""What browsers load, made once in the template: it takes about a minute."""


class DatabaseError(Exception):
    """Odoo could not make a database; the message has the end of its log."""


def data_folder(odoo: Odoo) -> Path:
    """Odoo's own folder, with the files that belong to each database."""
    return cache_folder() / f"data-{odoo.major}"


def filestore(odoo: Odoo, name: str) -> Path:
    return data_folder(odoo) / "filestore" / name


def connection(odoo: Odoo, cluster: Cluster, name: str) -> list[str]:
    """Options that give Odoo this database on this cluster."""
    return [
        *("--db_host=127.0.0.1", f"--db_port={cluster.port}", "--db_user=odoo", "-d", name),
        *(f"--data-dir={data_folder(odoo)}", "--no-database-list", "--http-interface=127.0.0.1"),
    ]


def exists(cluster: Cluster, name: str) -> bool:
    return bool(cluster.sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))


def drop(odoo: Odoo, cluster: Cluster, name: str) -> None:
    cluster.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    shutil.rmtree(filestore(odoo, name), ignore_errors=True)


def copy(odoo: Odoo, cluster: Cluster, source: str, target: str) -> None:
    """A copy with its own identity: what belongs to one database must not be taken for another's."""
    shutil.rmtree(filestore(odoo, target), ignore_errors=True)
    if filestore(odoo, source).exists():  # its files never change, so they need not be copied
        shutil.copytree(filestore(odoo, source), filestore(odoo, target), copy_function=os.link)
    cluster.sql(f'CREATE DATABASE "{target}" TEMPLATE "{source}" STRATEGY file_copy')
    cluster.sql(
        "UPDATE ir_config_parameter SET value = gen_random_uuid() WHERE key IN ('database.uuid', 'database.secret')",
        database=target,
    )


def run_odoo(odoo: Odoo, command: list[str], log: Path, *, text: str = "", timeout_s: float = 900) -> int:
    """Runs Odoo to its end with its output in `log`, and returns its exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        result = subprocess.run(
            command,
            env=odoo.environment(),
            input=text,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    return result.returncode


def install(odoo: Odoo, cluster: Cluster, name: str, modules: tuple[str, ...]) -> None:
    """Installs modules into a database that may not exist yet. Raises :class:`DatabaseError`."""
    log = cache_folder() / "logs" / f"{name}.log"
    options = [*connection(odoo, cluster, name), f"--http-port={free_port()}", "--max-cron-threads=0"]
    command = odoo.command(
        *options, "-i", ",".join(modules), "--without-demo=all", "--stop-after-init", "--no-http", addons=ADDONS
    )
    if run_odoo(odoo, command, log) != 0:
        raise DatabaseError(f"Odoo {odoo.major} did not install {', '.join(modules)}; {log}:\n{tail(log)}")


def take_over(cluster: Cluster, name: str) -> list[str]:
    """Options that install those of our add-ons that are not in that database, and update those that are."""
    rows = cluster.sql("SELECT name FROM ir_module_module WHERE state = 'installed'", name)
    there = {module for (module,) in rows}
    options = {
        "-i": [module for module in OWN if module not in there],
        "-u": [module for module in OWN if module in there],
    }
    return [word for option, modules in options.items() if modules for word in (option, ",".join(modules))]


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def warm_up(odoo: Odoo, cluster: Cluster, name: str) -> None:
    command = odoo.command(*connection(odoo, cluster, name), "--no-http", addons=ADDONS)
    command[command.index("server")] = "shell"
    log = cache_folder() / "logs" / f"{name}-assets.log"
    if run_odoo(odoo, command, log, text=WARM_UP) != 0:
        raise DatabaseError(f"Odoo {odoo.major} could not make its assets; {log}:\n{tail(log)}")


def base_template(odoo: Odoo, cluster: Cluster) -> str:
    """Name of the template without the add-on, which is made where it is missing."""
    name = f"template_{odoo.major}_{short_hash([odoo.key, WARM_UP, *MODULES])}"
    if not exists(cluster, name):
        with held(name, note=f"Another run is making the template of Odoo {odoo.major}; waiting for it"):
            if not exists(cluster, name):
                say(f"Odoo {odoo.major}: making a database with {', '.join(MODULES)} (two minutes, once)")
                part = f"{name}_part"
                drop(odoo, cluster, part)
                install(odoo, cluster, part, MODULES)
                warm_up(odoo, cluster, part)
                finish(odoo, cluster, part, name)
    return name


def finish(odoo: Odoo, cluster: Cluster, part: str, name: str) -> None:
    """Gives a finished template its name: the database last, because that is what others look for."""
    shutil.rmtree(filestore(odoo, name), ignore_errors=True)
    if filestore(odoo, part).exists():
        filestore(odoo, part).rename(filestore(odoo, name))
    cluster.sql(f'ALTER DATABASE "{part}" RENAME TO "{name}"')


def addon_template(odoo: Odoo, cluster: Cluster) -> str:
    """Name of the template with the add-on as its files are now, which is made where it is missing."""
    base = base_template(odoo, cluster)
    name = f"addon_{odoo.major}_{short_hash([base, files_hash(*ADDONS)])}"
    if not exists(cluster, name):
        with held(name, note=f"Another run is installing this add-on in Odoo {odoo.major}; waiting for it"):
            if not exists(cluster, name):
                say(f"Odoo {odoo.major}: installing the add-on in a template")
                part = f"{name}_part"
                drop(odoo, cluster, part)
                with held(base, shared=True):
                    copy(odoo, cluster, base, part)
                install(odoo, cluster, part, (ADDON,))
                finish(odoo, cluster, part, name)
        prune(odoo, cluster)
    return name


def prune(odoo: Odoo, cluster: Cluster) -> None:
    """
    Drops the oldest templates of the add-on, databases of tests whose run has ended without dropping them, and all
    that nobody has used for long; and the logs of databases that are gone, after a while.
    """
    rows = cluster.sql("SELECT datname FROM pg_database ORDER BY oid DESC")
    names = [name for (name,) in rows]
    templates = [name for name in names if re.fullmatch(rf"addon_{odoo.major}_[0-9a-f]{{12}}", name)]
    left = [name for name in names if name.startswith(f"test_{odoo.major}_")]
    old = [name for name in names if f"_{odoo.major}_" in name and unused(lock_file(name))]
    for name in dict.fromkeys(templates[KEPT_TEMPLATES:] + left + old):
        with held(name, wait=False) as free:
            if free:
                drop(odoo, cluster, name)
                lock_file(name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # another run clears them away too
        logs = sorted((cache_folder() / "logs").glob("*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
        for log in logs[KEPT_LOGS:]:
            log.unlink()


@contextmanager
def new_database(odoo: Odoo, cluster: Cluster, *, addon: bool = True) -> Iterator[str]:
    """Name of a fresh database, with the add-on or without it, that is dropped at the end."""
    template = addon_template(odoo, cluster) if addon else base_template(odoo, cluster)
    name = f"test_{odoo.major}_{secrets.token_hex(6)}"
    with held(name):
        with held(template, shared=True):
            copy(odoo, cluster, template, name)
        try:
            yield name
        finally:
            drop(odoo, cluster, name)
            lock_file(name).unlink(missing_ok=True)


def kept_database_name(odoo: Odoo, purpose: str, place: Path = ROOT) -> str:
    """A database that stays: one for each purpose and checkout, named so that people find it."""
    words = re.sub(r"\W+", "_", place.name.lower()).strip("_")[:20]
    return f"{purpose}_{odoo.major}_{words}_{short_hash([str(place), odoo.key])[:6]}"


def kept_database(odoo: Odoo, cluster: Cluster, name: str, *, fresh: bool = False) -> None:
    """Makes that database from the template without the add-on unless it is there; `fresh`: anew."""
    if fresh:
        drop(odoo, cluster, name)
    if not exists(cluster, name):
        prune(odoo, cluster)
        template = base_template(odoo, cluster)
        with held(template, shared=True):
            copy(odoo, cluster, template, name)
