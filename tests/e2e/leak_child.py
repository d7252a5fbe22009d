"""An appliance that counts what it holds: for :mod:`tests.e2e.test_leaks`, which sends it ten thousand bad connections.

Writes its ports as JSON, and for each line it reads what it holds once everything has settled.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
from pathlib import Path

import uvloop

from appliance.app import Appliance
from appliance.settings import Settings

VIEWER, VIEWER_PASSWORD = "scada", "a-viewers-password"


async def settled(appliance: Appliance) -> None:
    """Wait until the last socket is closed and amqtt has cleared up its sessions."""
    listener, attached = appliance.broker.listener, appliance.broker.attached
    assert attached is not None
    kept = {
        "connections": listener._connections,
        "closing": listener._closing,
        "not logged in": listener._not_logged_in,
        "attachments": attached._attachments,
        "WebSockets": appliance._mqtt_sockets._open,
    }
    try:
        async with asyncio.timeout(30):
            # amqtt clears up once a second; one of its sessions is the fan-out's
            while any(kept.values()) or len(appliance.broker.amqtt.sessions) > 1:
                await asyncio.sleep(0.05)
    except TimeoutError:
        sessions = appliance.broker.amqtt.sessions
        raise RuntimeError(f"not settled: {kept}, {len(sessions)} amqtt sessions, {list(sessions)[:3]}") from None
    await appliance.refusals.write()
    await appliance.observers.keeper.write()
    await asyncio.sleep(0.1)


async def holds(appliance: Appliance) -> dict[str, int]:
    """What this process holds."""
    await settled(appliance)
    for _ in range(3):
        gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = await asyncio.to_thread(Path("/proc/self/status").read_text)
    return {
        "blocks": sys.getallocatedblocks(),
        "rss_bytes": int(status.partition("VmRSS:")[2].split()[0]) * 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "accepted": appliance.broker.listener.accepted,
    }


async def main(folder: Path) -> None:
    settings = Settings(
        _env_file=None,
        mqtt_bind="127.0.0.1",
        mqtt_broker_port=0,
        mqtt_use_tls=False,
        mqtt_broker_username=VIEWER,
        mqtt_broker_password=VIEWER_PASSWORD,
        mqtt_max_unpaired_per_address=1000,
        host="127.0.0.1",
        port=0,
        http_use_tls=False,
        iiot_data_dir=folder,
    )
    appliance = Appliance(settings)
    async with appliance.started():
        running = asyncio.create_task(appliance.run(), name="appliance")
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin.buffer
        )
        print(json.dumps({"mqtt": appliance.ports.mqtt, "http": appliance.ports.http}), flush=True)
        while await commands.readline():
            print(json.dumps(await holds(appliance)), flush=True)
        appliance.stop()
        await running


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
