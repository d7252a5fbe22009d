"""``python -m tests.odoo.run 19``: an Odoo with this checkout's add-on to look at, on a database that is kept."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.odoo.cache import held
from tests.odoo.cluster import running_cluster
from tests.odoo.databases import ADDON, drop, exists, kept_database, kept_database_name
from tests.odoo.releases import MAJORS, NoOdooError, find
from tests.odoo.server import LOGIN, PASSWORD, OdooServer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.odoo.run", description=__doc__)
    parser.add_argument("version", type=int, choices=MAJORS)
    parser.add_argument("--db", help="name of the database (default: one for this checkout)")
    parser.add_argument("--port", type=int, help="default: a free one")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("-u", "--update", action="store_true", help="take over changes of the add-on's data and models")
    parser.add_argument("--fresh", action="store_true", help="begin with a new database")
    arguments = parser.parse_args()
    try:
        odoo = find(arguments.version, get=True)
    except NoOdooError as error:
        print(f"No Odoo {arguments.version}: {error}")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    name = arguments.db or kept_database_name(odoo, "run")
    with running_cluster() as cluster, held(name, wait=False) as free:
        if not free:
            print(f"The database {name} is in use by another run")
            return 1
        new = arguments.fresh or not exists(cluster, name)
        if arguments.fresh:
            drop(odoo, cluster, name)
        kept_database(odoo, cluster, name)
        options = ("-i", ADDON, "--without-demo=all") if new else ("-u", ADDON) if arguments.update else ()
        server = OdooServer(
            odoo,
            cluster,
            name,
            workers=arguments.workers,
            cron_threads=1,
            port=arguments.port,
            options=options,
        )
        try:
            with server:
                print(f"Odoo {odoo.revision}: {server.url} (login {LOGIN}, password {PASSWORD})")
                print(f"Database {name}, log {server.log}; Ctrl+C ends it", flush=True)
                server.process.wait()
                print(f"Odoo has ended by itself; see {server.log}")
        except KeyboardInterrupt:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
