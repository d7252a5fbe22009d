"""
One PostgreSQL cluster for all runs that share the cache: started by the first that needs it, stopped by the last.

It belongs to a user without rights, listens on the loopback address alone, and keeps nothing that matters: ``fsync`` is
off, so after a crash of the machine it is made anew.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.odoo.cache import cache_folder, held, say, short_hash

SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 400
shared_buffers = '256MB'
fsync = off
synchronous_commit = off
full_page_writes = off
max_wal_size = '2GB'
log_timezone = 'UTC'
timezone = 'UTC'
"""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ClusterError(Exception):
    """PostgreSQL is not here or does not run; the message says why."""


def programs() -> Path:
    """The folder with the server's programs, of the newest version there is. Debian keeps them off ``PATH``."""
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    found = sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    for folder in found:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres", "psql", "pg_controldata")):
            return folder
    raise ClusterError("PostgreSQL's server is not installed (Debian's package: postgresql)")


def owner() -> pwd.struct_passwd | None:
    """Whom the server runs as: PostgreSQL refuses to run as root. ``None``: the caller."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ClusterError("neither postgres nor nobody is a user here")


def as_owner() -> dict[str, Any]:
    """Arguments for :mod:`subprocess` that give the child the owner's identity and none of the caller's settings."""
    user = owner()
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}
    if user is None:
        return {"env": environment, "cwd": "/"}
    return {"env": environment, "cwd": "/", "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def reachable(folder: Path) -> bool:
    """Whether the owner may enter it: a home folder often is its user's alone."""
    command = ["test", "-x", str(folder)]
    return subprocess.run(command, check=False, timeout=60, **as_owner()).returncode == 0


def cluster_folder() -> Path:
    """In the cache; for root, whose cache the owner may not enter, in the system's cache under the same name."""
    version = programs().parent.name
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    if not reachable(cache):
        cache = Path("/var/cache/iiot-appliance-tests") / short_hash([str(cache)])
        cache.mkdir(parents=True, exist_ok=True)
    return cache / f"postgresql-{version}"


def run(name: str, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [str(programs() / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, **as_owner())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Cluster:
    """A running server."""

    port: int

    def sql(self, text: str, database: str = "postgres") -> list[list[str]]:
        """Runs one statement and returns its rows as text. Raises :class:`ClusterError` with the server's words."""
        command = [str(programs() / "psql"), "-XqAt", "-F", "\x1f", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
        command += ["-p", str(self.port), "-U", "odoo", "-d", database, "-c", text]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if result.returncode:
            raise ClusterError(result.stderr.strip())
        return [line.split("\x1f") for line in result.stdout.splitlines()]


def running_port(data: Path) -> int | None:
    if run("pg_ctl", "-D", str(data), "status").returncode != 0:
        return None
    return int((data / "postmaster.pid").read_text().splitlines()[3])


def initialise(folder: Path) -> None:
    """An empty cluster in `folder`, whatever was there before."""
    say("PostgreSQL: making a cluster")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    if user := owner():
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = folder / "new"
    result = run("initdb", "-D", str(data), "-A", "trust", "-U", "odoo", "--encoding=UTF8", "--locale=C.UTF-8", "-N")
    if result.returncode:
        raise ClusterError(f"initdb: {result.stderr.strip()}")
    with (data / "postgresql.conf").open("a") as file:
        file.write(SETTINGS)
    data.rename(folder / "data")


def is_trustworthy(folder: Path) -> bool:
    """Not after a crash of the machine: without ``fsync`` anything may be half written then."""
    if not (folder / "data").is_dir():
        return False
    mark = folder / "boot_id"
    if mark.exists() and mark.read_text() == BOOT_ID.read_text():
        return True
    state = run("pg_controldata", "-D", str(folder / "data")).stdout
    return any(
        line.startswith("Database cluster state:") and line.endswith(" shut down") for line in state.splitlines()
    )


def start(folder: Path) -> int:
    data, log = folder / "data", folder / "log"
    if (data.is_dir()) and (port := running_port(data)):
        return port
    if not is_trustworthy(folder):
        initialise(folder)
    (folder / "boot_id").write_text(BOOT_ID.read_text())
    log.unlink(missing_ok=True)
    for _ in range(5):  # the port may be taken between finding it and using it
        port = free_port()
        arguments = ["-D", str(data), "-l", str(log), "-o", f"-p {port}", "-w", "-t", "60", "start"]
        if run("pg_ctl", *arguments).returncode == 0:
            return port
    raise ClusterError(f"PostgreSQL does not start: {log.read_text()[-1000:] if log.exists() else 'no log'}")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The cluster of this cache, running for as long as the context lasts, and longer if others use it too."""
    folder = cluster_folder()
    with held("cluster-users", shared=True):
        with held("cluster-start"):
            port = start(folder)
        yield Cluster(port)
    with held("cluster-users", wait=False) as last:
        if last:
            run("pg_ctl", "-D", str(folder / "data"), "-m", "fast", "-w", "stop")
