"""What a check found, and how that is told: one line each, with what to do where it isn't well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "FAILED"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer."""

    check: str
    verdict: Verdict
    told: str  # what was found, where it matters with the node's name
    advice: str = ""  # what to do; empty where all is well

    def line(self) -> str:
        end = f": {self.advice}" if self.advice else ""
        return f"{self.verdict:<7} {self.check:<12} {self.told}{end}"


def ok(check: str, told: str) -> Finding:
    return Finding(check, "ok", told)


def note(check: str, told: str, advice: str = "") -> Finding:
    """Something to know that stops nothing."""
    return Finding(check, "note", told, advice)


def failed(check: str, told: str, advice: str) -> Finding:
    return Finding(check, "FAILED", told, advice)


def summary(findings: Sequence[Finding]) -> str:
    """The last line: how many checks were well, and how many not."""
    count = {verdict: _count(findings, verdict) for verdict in ("ok", "note", "FAILED")}
    notes = f", {count['note']} to know" if count["note"] else ""
    return f"{count['ok']} ok{notes}, {count['FAILED']} failed"


def exit_status(findings: Iterable[Finding]) -> int:
    """1 when a check failed, else 0."""
    return int(any(finding.verdict == "FAILED" for finding in findings))


def _count(findings: Sequence[Finding], verdict: str) -> int:
    return sum(finding.verdict == verdict for finding in findings)
