"""systemd's notification protocol, spoken to a socket as systemd's own is."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.notify import Notifier


@contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_what_is_told_arrives_in_one_datagram(tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@iiot-test-{os.getpid()}"
    with systemd(name.replace("@", "\0")) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": name})
        assert notifier.listens
        notifier.tell("READY=1", "STATUS=well")
        assert listening.recv(1000) == b"READY=1\nSTATUS=well"


def test_a_process_that_replaces_itself_finds_everything_again() -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}
    for _ in range(2):
        notifier = Notifier(environment)
        assert (notifier.listens, notifier.watchdog_s) == (True, 5)


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}],
)
def test_without_a_watchdog_for_this_process_nothing_is_due(environment: dict[str, str]) -> None:
    assert Notifier(environment).watchdog_s is None


def test_nobody_who_listens_is_no_error(tmp_path: Path) -> None:
    Notifier({}).tell("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    with systemd(str(tmp_path / "full")) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "full")})
        for number in range(2000):  # more than anybody reads: it never waits
            notifier.tell(f"STATUS={number}")
        assert listening.recv(100) == b"STATUS=0"
