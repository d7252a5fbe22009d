"""The broker to compare with: amqtt as it comes, on uvloop, open to everybody, storing nothing.

Only the plugin that lets everybody in is named: amqtt's default list (packet and event loggers, ``$SYS``) costs another
three quarters on top and would flatter the appliance.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from amqtt.broker import Broker


async def serve(port: int) -> None:
    """Serve on the loopback interface until SIGTERM ends the process; there is nothing to save."""
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
