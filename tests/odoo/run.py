"""``python -m tests.odoo.run 19``: an Odoo with this checkout's add-on to look at, on a database that is kept."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from tests.odoo.cache import held
from tests.odoo.cluster import Cluster, running_cluster
from tests.odoo.databases import drop, exists, kept_database, kept_database_name, new_database, take_over
from tests.odoo.releases import MAJORS, NoOdooError, Odoo, find
from tests.odoo.server import LOGIN, PASSWORD, OdooServer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.odoo.run", description=__doc__)
    parser.add_argument("version", type=int, choices=MAJORS)
    parser.add_argument("--db", help="name of the database (default: one for this checkout)")
    parser.add_argument("--port", type=int, help="default: a free one")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("-u", "--update", action="store_true", help="take over changes of the add-on's data and models")
    parser.add_argument("--fresh", action="store_true", help="begin with a new database")
    parser.add_argument("--throwaway", action="store_true", help="a new database that is removed at the end")
    parser.add_argument("--json", action="store_true", help="print where it is as one line of JSON, for programs")
    arguments = parser.parse_args()
    try:
        odoo = find(arguments.version, get=True)
    except NoOdooError as error:
        print(f"No Odoo {arguments.version}: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running_cluster() as cluster:
            if arguments.throwaway:
                with new_database(odoo, cluster) as name:
                    return serve(arguments, odoo, cluster, name, ())
            name = arguments.db or kept_database_name(odoo, "run")
            with held(name, wait=False) as free:
                if not free:
                    print(f"The database {name} is in use by another run", file=sys.stderr)
                    return 1
                new = arguments.fresh or not exists(cluster, name)
                if arguments.fresh:
                    drop(odoo, cluster, name)
                kept_database(odoo, cluster, name)
                options = [*take_over(cluster, name), "--without-demo=all"] if new or arguments.update else []
                return serve(arguments, odoo, cluster, name, tuple(options))
    except KeyboardInterrupt:
        return 0


def serve(arguments: argparse.Namespace, odoo: Odoo, cluster: Cluster, name: str, options: tuple[str, ...]) -> int:
    """Until Odoo ends, or ``KeyboardInterrupt``."""
    server = OdooServer(
        odoo, cluster, name, workers=arguments.workers, cron_threads=1, port=arguments.port, options=options
    )
    try:
        server.start()
        login = {"url": server.url, "database": name, "login": LOGIN, "password": PASSWORD, "revision": odoo.revision}
        if arguments.json:
            print(json.dumps(login), flush=True)
        else:
            print(f"Odoo {odoo.revision}: {server.url} (login {LOGIN}, password {PASSWORD})")
            print(f"Database {name}, log {server.log}; Ctrl+C ends it", flush=True)
        server.process.wait()
        print(f"Odoo has ended by itself; see {server.log}", file=sys.stderr)
        return 1
    finally:
        # nobody waits for requests on a database that is removed next
        server.kill() if arguments.throwaway else server.stop()


if __name__ == "__main__":
    sys.exit(main())
