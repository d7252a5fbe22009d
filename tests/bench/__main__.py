"""``python -m tests.bench ingest|idle|fleet|start|outage|odoo|screens|uplink``: see the README beside this file."""

from __future__ import annotations

import argparse
import importlib
import sys

BENCHMARKS = {
    "ingest": "messages per second and CPU per message, plain amqtt against the appliance (about 3 minutes)",
    "idle": "memory and CPU with 1,000 connected devices that say nothing (half a minute)",
    "fleet": "5,000 devices at once, plain and with TLS; the same load from 100 and 5,000 (4 minutes)",
    "start": "time from exec to ready, with an empty buffer and with a million rows (half a minute)",
    "outage": "acknowledgement times and completeness while Odoo is stopped for a third of 90 s",
    "odoo": "readings through /iiot/webhook into one real Odoo worker, with an empty and a long history (5 minutes)",
    "screens": "what lists, kanban, graph and pivot cost Odoo with 10,000 devices and ten million readings (8 minutes)",
    "uplink": "100,000 waiting readings into the stand-in, and one reading per request (a minute)",
}


def main() -> int:
    """Run one benchmark; its exit status is 0 unless it could not be measured or a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmarks of the appliance.")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, text in BENCHMARKS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
        command.add_argument("--quick", action="store_true", help="only to see that it runs: the figures mean little")
        if name == "odoo":
            command.add_argument("--version", type=int, default=19, choices=(19, 18, 17), help="TEST_ODOO_17 names it")
            command.add_argument("--rows", type=int, default=0, help="time lists and charts with so many rows instead")
        if name == "screens":
            command.add_argument("--devices", type=int, default=10_000)
            command.add_argument("--rows", type=int, default=10_000_000, help="readings, of 30 days")
    arguments = parser.parse_args()
    benchmark = importlib.import_module(f"tests.bench.{arguments.benchmark}")
    options = {name: value for name, value in vars(arguments).items() if name not in ("benchmark", "json")}
    status: int = benchmark.main(as_json=arguments.json, **options)
    return status


if __name__ == "__main__":
    sys.exit(main())
