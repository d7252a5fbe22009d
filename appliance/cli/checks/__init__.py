"""One check in each module, and all of them in their order: from what the others rest on to what rests on them."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.backlog import BacklogCheck
from appliance.cli.checks.base import Check, Finding, Result, Verdict, worst
from appliance.cli.checks.certificate_days import CertificateCheck
from appliance.cli.checks.clock import ClockCheck
from appliance.cli.checks.contract import ContractCheck
from appliance.cli.checks.data_folder import DataFolderCheck
from appliance.cli.checks.database import DatabaseCheck
from appliance.cli.checks.disk_space import DiskSpaceCheck
from appliance.cli.checks.disk_speed import DiskSpeedCheck
from appliance.cli.checks.dns import DnsCheck
from appliance.cli.checks.given_settings import SettingsCheck
from appliance.cli.checks.health import HealthCheck
from appliance.cli.checks.odoo import OdooCheck
from appliance.cli.checks.odoo_clock import OdooClockCheck
from appliance.cli.checks.parked import ParkedCheck
from appliance.cli.checks.permissions import PermissionsCheck
from appliance.cli.checks.ports import PortsCheck
from appliance.cli.checks.recovery import RecoveryCheck
from appliance.cli.checks.service import ServiceCheck
from appliance.cli.checks.surroundings import Surroundings

__all__ = ["CHECKS", "Check", "Finding", "Result", "Surroundings", "Verdict", "make_checks", "worst"]

CHECKS: tuple[type[Check], ...] = (
    SettingsCheck,
    DataFolderCheck,
    PermissionsCheck,
    DiskSpaceCheck,
    DiskSpeedCheck,
    DatabaseCheck,
    ClockCheck,
    CertificateCheck,
    PortsCheck,
    ServiceCheck,
    HealthCheck,
    DnsCheck,
    OdooCheck,
    OdooClockCheck,
    ContractCheck,
    BacklogCheck,
    ParkedCheck,
    RecoveryCheck,
)


def make_checks(box: Surroundings, *, before_start: bool = False, online: bool = False) -> Iterator[Result]:
    """Each in its turn. ``before_start``: those alone that say whether a start would work, with ``online`` Odoo too."""
    for check in CHECKS:
        if not before_start or check.before_start or (online and check is OdooCheck):
            yield check().run(box)
