"""A check is data: what it asks, what it needs, how it is probed, and what its answer looks like."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The answer of a check. A check that could not be carried out is ``UNKNOWN``, never ``OK``."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    SKIP = "skip"


class Severity(StrEnum):
    """What a failure means for the launch."""

    BLOCKS = "blocks"
    WARNS = "warns"


@dataclass(frozen=True, slots=True)
class Fix:
    """How to mend a failed check. Always readable text; never run without the person's word."""

    text: str
    commands: tuple[str, ...] = ()
    """Shell lines to run on ``host``, ready to copy."""
    host: str = ""
    needs_root: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found on one host (or for the whole cluster, or for one ordered pair)."""

    verdict: Verdict
    reason: str
    """One line: why."""
    evidence: str = ""
    """What was run and what came back."""
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding with its place in the checklist."""

    check_id: str
    host: str
    """Host the result belongs to; empty for the whole cluster."""
    finding: Finding
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckStarted:
    """A check began on a host; the screen shows it as running."""

    check_id: str
    host: str


CheckProgress = CheckStarted | CheckResult
