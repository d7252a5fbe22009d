"""The add-on leaves nothing behind: also the tables that belong to no model are gone."""

from __future__ import annotations

from pathlib import Path

from tests.odoo.cluster import Cluster
from tests.odoo.databases import ADDONS, connection, run_odoo, tail
from tests.odoo.releases import Odoo

UNINSTALL = """
env['ir.module.module'].search([('name', '=', 'industrial_iot')]).button_immediate_uninstall()
env.cr.commit()
"""
TABLES = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'iiot%' ORDER BY 1"


def test_what_is_uninstalled_leaves_no_table(odoo: Odoo, cluster: Cluster, database: str, tmp_path: Path) -> None:
    before = {name for (name,) in cluster.sql(TABLES, database)}
    assert {"iiot_receipt", "iiot_gateway_epoch", "iiot_gateway_start", "iiot_device_change", "iiot_device"} <= before
    command = odoo.command(*connection(odoo, cluster, database), "--no-http", addons=ADDONS)
    command[command.index("server")] = "shell"
    log = tmp_path / "log"
    assert run_odoo(odoo, command, log, text=UNINSTALL) == 0, tail(log)
    assert [name for (name,) in cluster.sql(TABLES, database)] == [], tail(log)
