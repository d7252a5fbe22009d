"""Runs the add-on's own tests, which Odoo itself runs, and reads from its log what came of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.odoo.cache import cache_folder
from tests.odoo.cluster import Cluster, free_port
from tests.odoo.databases import ADDONS, OWN, connection, run_odoo, take_over
from tests.odoo.releases import Odoo

RECORD = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ (?P<level>[A-Z]+) \S+ (?P<logger>[\w.]+): (?P<text>.*)$"
)
RESULT = re.compile(r"(?P<failed>\d+) failed, (?P<errors>\d+) error\(s\) of (?P<tests>\d+) tests when loading database")
BAD = {"WARNING", "ERROR", "CRITICAL"}
ALL = ",".join(f"/{module}" for module in OWN)


@dataclass(frozen=True)
class Outcome:
    """What a run of the add-on's tests came to."""

    status: int
    tests: int
    failed: int
    problems: list[str]
    """Records of the log, each with the lines that belong to it, worse than information."""
    log: Path

    @property
    def good(self) -> bool:
        return self.status == 0 and self.failed == 0 and self.tests > 0


def records(text: str) -> Iterator[tuple[str, str]]:
    """Level and text of each record of Odoo's log; lines without a head of their own belong to the one before."""
    level, lines = "INFO", list[str]()
    for line in text.splitlines():
        if match := RECORD.match(line):
            if lines:
                yield level, "\n".join(lines)
            level, lines = match["level"], [f"{match['logger']}: {match['text']}"]
        else:
            lines.append(line)
    if lines:
        yield level, "\n".join(lines)


def read_outcome(status: int, log: Path) -> Outcome:
    text = log.read_text(errors="replace")
    results = list(RESULT.finditer(text))
    problems = [f"{level} {record}" for level, record in records(text) if level in BAD]
    if status and not any(not problem.startswith("WARNING") for problem in problems):
        problems.append("\n".join(text.splitlines()[-30:]))  # it ended without a word of its own
    return Outcome(
        status=status,
        tests=sum(int(match["tests"]) for match in results),
        failed=sum(int(match["failed"]) + int(match["errors"]) for match in results),
        problems=problems,
        log=log,
    )


def run_addon_tests(odoo: Odoo, cluster: Cluster, database: str, tags: str = ALL) -> Outcome:
    """Installs or updates our add-ons in that database, and runs their tests there."""
    log = cache_folder() / "logs" / f"{database}.log"
    command = odoo.command(
        *connection(odoo, cluster, database),
        *(*take_over(cluster, database), "--test-tags", tags, "--stop-after-init"),
        *(f"--http-port={free_port()}", "--max-cron-threads=0"),
        addons=ADDONS,
    )
    return read_outcome(run_odoo(odoo, command, log, timeout_s=1800), log)
