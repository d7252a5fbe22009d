"""What ``check-config`` finds out without starting anything: data folder, ports, certificates, clock, disk, Odoo."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic_core import to_json

from appliance import certificates
from appliance.cli.box import is_in_use
from appliance.cli.exits import Exit
from appliance.contract.times import Clock
from appliance.errors import DataFolderError, OdooAlarmError, OdooError, OdooRefusedError, SettingsError
from appliance.settings import Settings

MIB = 1 << 20
LEAST_FREE_BYTES = 64 * MIB
"""The buffer file's log and what is put by for a full disk; with less the appliance hardly begins."""
SOON = timedelta(days=60)
"""A certificate that ends within is worth a word."""
TOLERANCE = timedelta(days=1)
LATEST = timedelta(days=20 * 365)
"""After the release; a clock beyond that is wrong."""
ONLINE_S = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend, with the exit status that stands for it; ``None``: it works, but is worth a word."""

    status: Exit | None
    text: str


def offline(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Everything that can be seen on this machine alone."""
    running = is_in_use(settings.iiot_data_dir)
    of_folder = list(_data_folder(settings.iiot_data_dir))
    yield from of_folder
    yield from _ports(settings, running=running)
    yield from _clock(settings.iiot_data_dir, clock)
    if not of_folder:
        yield from _certificates(settings.iiot_data_dir, clock)
        yield from _disk(settings)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _data_folder(folder: Path) -> Iterator[Finding]:
    nearest = _nearest(folder)
    if not nearest.is_dir():
        yield Finding(Exit.DATA_FOLDER, f"IIOT_DATA_DIR: {nearest} is no folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        what = "may not be written to" if nearest == folder else "cannot be made"
        yield Finding(Exit.DATA_FOLDER, f"IIOT_DATA_DIR: {folder} {what} by this user")
    elif nearest == folder:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not os.access(path, os.R_OK | os.W_OK):
                yield Finding(Exit.DATA_FOLDER, f"IIOT_DATA_DIR: {path} may not be read and written by this user")
        key = folder / "master.key"
        if key.is_file() and key.stat().st_size != 32:
            yield Finding(Exit.DATA_FOLDER, f"{key} is damaged: every device's password is derived from it")


def _ports(settings: Settings, *, running: bool) -> Iterator[Finding]:
    doors = [
        ("MQTT_BROKER_PORT", settings.mqtt_bind, settings.mqtt_broker_port),
        ("MQTT_PLAIN_PORT", settings.mqtt_bind, settings.mqtt_plain_port),
        ("PORT", settings.host, settings.port),
    ]
    for name, host, port in doors:
        if not port:
            continue
        reason = _why_not(host, port)
        if reason is None or (running and reason == errno.EADDRINUSE):
            continue
        if reason == errno.EADDRNOTAVAIL:
            yield Finding(Exit.ADDRESS, f"{name}: this machine has no address {host}")
        else:
            yield Finding(Exit.ADDRESS, f"{name}: port {port} cannot be listened on: {os.strerror(reason)}")


def _why_not(host: str, port: int) -> int | None:
    """The error number of listening there; nothing listens, so nobody can connect by mistake."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno or errno.EINVAL
    return None


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now_ms() / 1000, UTC)


def _certificates(folder: Path, clock: Clock) -> Iterator[Finding]:
    try:
        found = certificates.periods(folder / "tls")
    except DataFolderError as error:
        yield Finding(Exit.DATA_FOLDER, str(error))
        return
    except OSError as error:
        yield Finding(Exit.DATA_FOLDER, f"{error.filename}: {error.strerror}")
        return
    now = _now(clock)
    for path, (begin, end) in found.items():
        if now >= end:
            yield Finding(Exit.DATA_FOLDER, f"{path}: the certificate is valid until {end:%Y-%m-%d} only")
        elif now < begin:
            yield Finding(Exit.DATA_FOLDER, f"{path}: the certificate is valid from {begin:%Y-%m-%d} on only")
        elif now > end - SOON:
            yield Finding(None, f"{path}: the certificate ends on {end:%Y-%m-%d}")


def _clock(folder: Path, clock: Clock) -> Iterator[Finding]:
    """The appliance runs with any clock, but readings get its times."""
    now = _now(clock)
    database = folder / "appliance.db"
    written = None
    if database.is_file():
        written = datetime.fromtimestamp(database.stat().st_mtime, UTC)
    if now < certificates.BUILD_DATE - TOLERANCE:
        yield Finding(Exit.FAILED, f"the clock says {now:%Y-%m-%d}, which is before this version was made")
    elif now > certificates.BUILD_DATE + LATEST:
        yield Finding(Exit.FAILED, f"the clock says {now:%Y-%m-%d}, which is hardly true")
    elif written is not None and now < written - TOLERANCE:
        yield Finding(Exit.FAILED, f"the clock says {now:%Y-%m-%d}, but the buffer was written on {written:%Y-%m-%d}")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.iiot_data_dir
    try:
        free = shutil.disk_usage(_nearest(folder)).free
        used = sum(path.stat().st_size for path in folder.glob("appliance.db*")) if folder.is_dir() else 0
    except OSError as error:
        yield Finding(Exit.DATA_FOLDER, f"IIOT_DATA_DIR: {error.strerror}")
        return
    quota = settings.iiot_buffer_quota_mb * MIB
    if free < LEAST_FREE_BYTES:
        yield Finding(Exit.DATA_FOLDER, f"only {free // MIB} MiB are free on the disk of {folder}")
    elif free < quota - used:
        yield Finding(
            None, f"the disk is full before the buffer is: {free // MIB} MiB are free, IIOT_BUFFER_QUOTA_MB is larger"
        )


def _gateway_uid(folder: Path) -> str:
    """What this box calls itself; nothing is made where it has never run."""
    path = folder / "gateway_uid"
    try:
        return path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error


def online(settings: Settings) -> Finding | None:
    """Ask Odoo whether it knows this key, by a batch that no Odoo can take; nothing is changed there."""
    from appliance.enrolment import OdooAccess, read_access  # takes time, and is not always needed
    from appliance.uplink.client import OdooClient, Timeouts

    async def ask(access: OdooAccess) -> None:
        timeouts = Timeouts(connect_s=ONLINE_S, read_s=ONLINE_S, write_s=ONLINE_S, pool_s=ONLINE_S)
        async with OdooClient(
            base_url=access.base_url, api_key=access.api_key, database=access.database, timeouts=timeouts
        ) as client:
            await client.post_batch(to_json({"gateway": _gateway_uid(settings.iiot_data_dir)}))

    try:
        access = read_access(settings)
        if access is None:
            return Finding(Exit.ODOO, "there is no Odoo to ask: neither is ODOO_BASE_URL set, nor was one enrolled at")
        asyncio.run(ask(access))
    except DataFolderError as error:
        return Finding(Exit.DATA_FOLDER, str(error))
    except OdooRefusedError:
        return None  # it has looked at the key first, and speaks the contract
    except OdooAlarmError as error:
        return Finding(Exit.ODOO, f"Odoo refuses this gateway: {error}")
    except OdooError as error:
        return Finding(Exit.ODOO, f"Odoo does not answer: {error}")
    except SettingsError as error:
        return Finding(Exit.SETTINGS, str(error))
    return Finding(Exit.ODOO, "what answers at ODOO_BASE_URL takes anything: that is no Odoo with the add-on")
