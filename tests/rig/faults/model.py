"""A fault is data: how it comes about, the one check that turns red, and how its fix is applied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from remote.checks.model import Finding, Fix, Verdict
from remote.known_hosts import KnownHosts
from tests.rig.clusters import cluster_toml
from tests.rig.faults.bench import QUICK, Bench, Checklist

Text = Callable[[Bench], str]


@dataclass
class Case:
    """One fault on its way to its fix."""

    bench: Bench
    checklist: Checklist
    text: str

    async def rewrite(self, text: str) -> None:
        """Go on with another ``cluster.toml``, as a person who has corrected theirs."""
        await self.checklist.hosts.close()
        self.checklist, self.text = Checklist(text), text
        await self.checklist.connect()

    async def reconnect(self) -> None:
        """Log in again everywhere."""
        await self.checklist.new_login()


Repair = Callable[[Case, Fix], Awaitable[None]]


async def run_commands(case: Case, fix: Fix) -> None:
    """Run every command of the fix where it says."""
    case.bench.run_fix(fix)


def healthy_text(bench: Bench) -> str:
    """The rig's ``cluster.toml`` as it should be."""
    return cluster_toml(bench.rig)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row of the table."""

    name: str
    codes: tuple[str, ...]
    """Numbers of the failure modes it brings about."""
    inject: Callable[[Bench], AbstractContextManager[object]]
    """Holds the fault for as long as it is open, unless the fix has ended it before."""
    text: Text = healthy_text
    """``cluster.toml`` with the fault in it, where it lies there."""
    known_hosts: Callable[[Bench], KnownHosts] | None = None
    """The person's known_hosts, where the fault is about them."""
    check: str
    """The only check that may turn red."""
    at: tuple[str, ...]
    """Where; an empty string is the cluster."""
    verdict: Verdict = Verdict.FAIL
    reason: str
    """Words of the reason."""
    fix: str
    """Words of the fix, its text and commands together."""
    repair: Repair = run_commands
    """Applies the fix; where it is no command, does what its words say."""
    looks_at: tuple[str, ...] = QUICK
    also_warns: frozenset[tuple[str, str]] = frozenset()
    """Warnings that tell another side of the same fault."""


def fix_words(finding: Finding) -> str:
    """All that a finding's fix says."""
    return "" if finding.fix is None else "\n".join((finding.fix.text, *finding.fix.commands))
