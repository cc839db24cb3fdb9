"""A check is data: what it asks, what it needs, how it is probed, and what its answer looks like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from remote.checks.context import CheckContext


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
    safe: bool = False
    """The commands may be run as they stand once the person has seen them: nothing is left to fill in, nobody has to
    answer, and nothing is ended or removed that this program has not made."""
    new_login: bool = False
    """It takes effect with the next login, so the connection to the host is made anew."""
    brings_data: bool = False
    """This program can do it: it brings hosts what they lack of the data set (``remote.dataset_sync``)."""


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

Scope = Literal["host", "cluster", "pair"]
"""``host``: once for each host. ``cluster``: one answer for all hosts. ``pair``: every host against every other in one
go, answered for each host that is dialled."""


class Probe(Protocol):
    """Finds out. Takes the hosts to look at and returns a finding for each of them (or for ``""``, the cluster)."""

    def __call__(self, context: CheckContext, hosts: tuple[str, ...], /) -> Awaitable[Mapping[str, Finding]]:
        """Look at ``hosts``; anything raised becomes ``UNKNOWN`` with the reason."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One entry of the checklist."""

    id: str
    """Short readable name, such as ``clock``."""
    title: str
    codes: tuple[str, ...]
    """Numbers of the failure modes it finds."""
    severity: Severity
    scope: Scope
    question: str
    """What is asked and how it is found out."""
    remedy: str
    """What mends it, in general; a finding's ``fix`` is precise."""
    probe: Probe
    needs: tuple[str, ...] = ()
    """Checks that must be ok (or warn) first on the same host; else this one is skipped."""
    after: tuple[str, ...] = ()
    """Checks to wait for, whatever they find."""
    is_source: bool = False
    """What it finds is read by the checks that need it, so it runs anew with any of them."""
    deadline: float = 20.0
    """Seconds after which the answer is ``UNKNOWN``."""


def each_host(probe: Callable[[CheckContext, str], Awaitable[Finding]]) -> Probe:
    """Make a probe of one host fit ``Check.probe``."""

    async def of_hosts(context: CheckContext, hosts: tuple[str, ...], /) -> Mapping[str, Finding]:
        return {host: await probe(context, host) for host in hosts}

    return of_hosts


def whole_cluster(probe: Callable[[CheckContext, tuple[str, ...]], Awaitable[Finding]]) -> Probe:
    """Make a probe with one answer for all hosts fit ``Check.probe``."""

    async def of_cluster(context: CheckContext, hosts: tuple[str, ...], /) -> Mapping[str, Finding]:
        return {"": await probe(context, hosts)}

    return of_cluster


def ok(reason: str, evidence: str = "") -> Finding:
    """Everything is as it should be."""
    return Finding(Verdict.OK, reason, evidence)


def warn(reason: str, evidence: str = "", fix: Fix | None = None) -> Finding:
    """It will run, with a drawback."""
    return Finding(Verdict.WARN, reason, evidence, fix)


def fail(reason: str, evidence: str = "", fix: Fix | None = None) -> Finding:
    """It will not run."""
    return Finding(Verdict.FAIL, reason, evidence, fix)


def unknown(reason: str, evidence: str = "", fix: Fix | None = None) -> Finding:
    """It could not be found out."""
    return Finding(Verdict.UNKNOWN, reason, evidence, fix)


def skip(reason: str) -> Finding:
    """It does not apply here."""
    return Finding(Verdict.SKIP, reason)
