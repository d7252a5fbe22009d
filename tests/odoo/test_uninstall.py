"""The add-ons leave nothing behind: also the tables that belong to no model are gone, and Maintenance is as before."""

from __future__ import annotations

from pathlib import Path

from tests.odoo.cluster import Cluster
from tests.odoo.databases import ADDON, ADDONS, OWN, connection, run_odoo, tail
from tests.odoo.releases import Odoo

UNINSTALL = """
env['ir.module.module'].search([('name', '=', {!r})]).button_immediate_uninstall()
env.cr.commit()
"""
OURS = "SELECT name FROM ir_module_module WHERE state = 'installed' AND name LIKE 'industrial_iot%' ORDER BY 1"
IN_MAINTENANCE = """
    SELECT name FROM ir_model_fields WHERE model = 'maintenance.equipment' AND name LIKE 'iiot%'
    UNION ALL SELECT name FROM ir_ui_view WHERE model LIKE 'maintenance.%' AND arch_db::text LIKE '%iiot%'
"""
TABLES = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'iiot%' ORDER BY 1"


def test_what_is_uninstalled_leaves_no_table(odoo: Odoo, cluster: Cluster, database: str, tmp_path: Path) -> None:
    assert [name for (name,) in cluster.sql(OURS, database)] == list(OWN), "Odoo has not joined it with Maintenance"
    assert cluster.sql(IN_MAINTENANCE, database)
    before = {name for (name,) in cluster.sql(TABLES, database)}
    assert {"iiot_receipt", "iiot_gateway_epoch", "iiot_gateway_start", "iiot_device_change", "iiot_device"} <= before
    log = tmp_path / "log"
    uninstall(odoo, cluster, database, ADDON, log)
    assert [name for (name,) in cluster.sql(TABLES, database)] == [], tail(log)
    assert cluster.sql(OURS, database) == []
    assert cluster.sql(IN_MAINTENANCE, database) == []


def test_what_joins_it_with_maintenance_goes_alone(odoo: Odoo, cluster: Cluster, database: str, tmp_path: Path) -> None:
    before = cluster.sql(TABLES, database)
    uninstall(odoo, cluster, database, "industrial_iot_maintenance", tmp_path / "log")
    assert cluster.sql(OURS, database) == [[ADDON]]
    assert cluster.sql(IN_MAINTENANCE, database) == []
    assert cluster.sql(TABLES, database) == before


def uninstall(odoo: Odoo, cluster: Cluster, database: str, module: str, log: Path) -> None:
    command = odoo.command(*connection(odoo, cluster, database), "--no-http", addons=ADDONS)
    command[command.index("server")] = "shell"
    assert run_odoo(odoo, command, log, text=UNINSTALL.format(module)) == 0, tail(log)
