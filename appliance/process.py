"""The appliance as a process: its event loop, signals, first log lines, and garbage collection."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable

import uvloop

from appliance import __version__
from appliance.app import Appliance
from appliance.notify import Notifier
from appliance.settings import Settings

log = logging.getLogger("appliance")

GC_THRESHOLDS = (20_000, 20, 50)
"""Messages are short-lived and in no cycles: looking for cycles every 700 of them would be for nothing."""


def serve(settings: Settings, *, on_ready: Callable[[Appliance], None] | None = None) -> int:
    """Run the appliance until SIGTERM or SIGINT; the exit status. Raises what :meth:`Appliance.started` raises."""
    if uvloop.run(_serve(settings, on_ready)):
        _begin_again()
    return 0


def _begin_again() -> None:
    """The same command once more, in this very process; where systemd has started it, it is systemd's to do so."""
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        return
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the command line we have


async def _serve(settings: Settings, on_ready: Callable[[Appliance], None] | None) -> bool:
    """Whether it is to begin again."""
    notifier = Notifier()
    appliance = Appliance(settings, notifier=notifier)

    def stop() -> None:
        notifier.tell("STOPPING=1", "STATUS=stopping")
        appliance.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with appliance.started():
        ports = appliance.ports
        log.info(
            "version %s is ready: MQTT %s on port %d%s, HTTP%s on port %d, %d devices, %d messages wait",
            __version__,
            "with TLS" if settings.mqtt_use_tls else "without TLS",
            ports.mqtt,
            "" if ports.mqtt_plain is None else f" and without TLS on port {ports.mqtt_plain}",
            "S" if settings.http_use_tls else "",
            ports.http,
            len(appliance.registry),
            appliance.buffer.backlog().waiting,
        )
        log.info("SHA-256 fingerprint of the certificate authority: %s", appliance.fingerprint)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.enable()
        notifier.tell("READY=1")
        if on_ready is not None:
            on_ready(appliance)
        await appliance.run()
    return appliance.restarting
