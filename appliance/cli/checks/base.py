"""What every check has in common: it looks at one thing, and says how that is, why, and what to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from appliance.cli.exits import Exit

if TYPE_CHECKING:
    from appliance.cli.checks.surroundings import Surroundings


class Verdict(StrEnum):
    """From best to worst, but for what could not be looked at."""

    ok = "ok"
    skipped = "skipped"
    warning = "warning"
    failed = "failed"


_ORDER = list(Verdict)


def worst(verdicts: Iterator[Verdict]) -> Verdict:
    """The worst of them; ``ok`` if there is none."""
    return max(verdicts, key=_ORDER.index, default=Verdict.ok)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has found. ``status`` is what ``check-config`` leaves with if it is what stops a start."""

    verdict: Verdict
    reason: str
    remedy: str = ""
    status: Exit = Exit.FAILED


def ok(reason: str) -> Finding:
    """All is well."""
    return Finding(Verdict.ok, reason)


def skipped(reason: str) -> Finding:
    """It could not be looked at, or there is nothing to look at."""
    return Finding(Verdict.skipped, reason)


def warning(reason: str, remedy: str) -> Finding:
    """It works, and somebody should look."""
    return Finding(Verdict.warning, reason, remedy)


def failed(reason: str, remedy: str, *, status: Exit = Exit.FAILED) -> Finding:
    """It does not work, or not for long."""
    return Finding(Verdict.failed, reason, remedy, status)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check."""

    name: str
    title: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Of its worst finding."""
        return worst(finding.verdict for finding in self.findings)


class Check(ABC):
    """One check. It changes nothing that stays, and comes to an end within seconds."""

    name: ClassVar[str]
    """For programs."""
    title: ClassVar[str]
    """For people."""
    before_start: ClassVar[bool] = False
    """Whether it says something of an appliance that was never started: then ``check-config`` makes it too."""
    needs_settings: ClassVar[bool] = True

    def run(self, box: Surroundings) -> Result:
        """Look. A check that breaks is a finding of its own: the others go on."""
        try:
            if self.needs_settings and not box.usable:
                findings: tuple[Finding, ...] = (skipped("the settings cannot be used"),)
            else:
                findings = tuple(self.look(box))
        except Exception as error:
            findings = (failed(f"this check broke: {type(error).__name__}: {error}", "please report it"),)
        return Result(self.name, self.title, findings)

    @abstractmethod
    def look(self, box: Surroundings) -> Iterator[Finding]:
        """What there is to say; at least one finding."""
