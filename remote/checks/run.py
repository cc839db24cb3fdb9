"""Runs the checklist: in order of dependency, all hosts at once, telling each result as it comes."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from remote.checks.context import CheckContext, told
from remote.checks.hostile import harmless
from remote.checks.model import (
    Check,
    CheckProgress,
    CheckResult,
    CheckStarted,
    Finding,
    Severity,
    Verdict,
    skip,
    unknown,
)
from remote.errors import RemoteError, UserError

PROBES_PER_HOST = 4
"""At once; sshd's MaxSessions is ten by default and the log streams want some."""
CLUSTER = ""
"""Stands for the cluster where otherwise a host's name stands."""
MET = frozenset({Verdict.OK, Verdict.WARN})


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing to do: a check on one host, or a check of the cluster or of all pairs in one go."""

    check: Check
    host: str


@dataclass(slots=True)
class _Run:
    context: CheckContext
    checks: Mapping[str, Check]
    progress: asyncio.Queue[CheckProgress | None] = field(default_factory=asyncio.Queue)
    done: dict[Unit, asyncio.Event] = field(default_factory=dict)
    slots: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    in_the_way: set[tuple[str, str]] = field(default_factory=set)
    """Where an answer is missing because something is wrong, not because the check does not apply."""


async def run_checks(
    context: CheckContext,
    only: Collection[str] | None = None,
    hosts: Collection[str] | None = None,
    catalogue: Sequence[Check] | None = None,
) -> AsyncGenerator[CheckProgress, None]:
    """Run the checklist, or a part of it, and yield what starts and what is found.

    Everything is found out afresh. What a wanted check needs is run too, unless it was fine when last asked.
    Closing the generator ends every probe under way.

    Args:
        context: the cluster.
        only: ids or codes of the checks to run; all when None.
        hosts: hosts to check; all when None. Checks of the cluster and of pairs always look at all hosts.
        catalogue: the checklist, in the order it is shown.

    Raises:
        UserError: there is no such check or host.
    """
    if catalogue is None:
        from remote.checks.catalogue import CATALOGUE

        catalogue = CATALOGUE
    checks = {check.id: check for check in catalogue}
    wanted_hosts = _known_hosts(context, hosts)
    wanted_checks = _known_checks(catalogue, only)
    units = _with_needs(
        context, checks, [unit for check in wanted_checks for unit in _units(context, check, wanted_hosts)]
    )
    await context.forget(tuple({host: None for unit in units for host in _places(context, unit)}))

    run = _Run(context, checks)
    run.done = {unit: asyncio.Event() for unit in units}
    run.slots = {host: asyncio.Semaphore(PROBES_PER_HOST) for host in (*context.host_names, CLUSTER)}
    tasks = [asyncio.create_task(_run_unit(run, unit), name=f"check {unit.check.id} {unit.host}") for unit in units]
    end = asyncio.create_task(_end(run, tasks))
    try:
        while (progress := await run.progress.get()) is not None:
            yield progress
        await end
    finally:
        for task in (*tasks, end):
            task.cancel()
        await asyncio.gather(*tasks, end, return_exceptions=True)
        await context.stop()


async def _end(run: _Run, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all units, whatever becomes of them, then close the progress."""
    try:
        await asyncio.gather(*tasks)
    finally:
        run.progress.put_nowait(None)


def _known_hosts(context: CheckContext, hosts: Collection[str] | None) -> tuple[str, ...]:
    strangers = sorted(set(hosts or ()) - set(context.host_names))
    if strangers:
        raise UserError(
            f"no host named {', '.join(strangers)} in the inventory; it has {', '.join(context.host_names)}"
        )
    return tuple(name for name in context.host_names if hosts is None or name in hosts)


def _known_checks(catalogue: Sequence[Check], only: Collection[str] | None) -> tuple[Check, ...]:
    if only is None:
        return tuple(catalogue)
    strangers = sorted(set(only) - {name for check in catalogue for name in (check.id, *check.codes)})
    if strangers:
        known = ", ".join(check.id for check in catalogue)
        raise UserError(f"no check named {', '.join(strangers)}; there are: {known}")
    return tuple(check for check in catalogue if not {check.id, *check.codes}.isdisjoint(only))


def _units(context: CheckContext, check: Check, hosts: Iterable[str]) -> tuple[Unit, ...]:
    if check.scope == "host":
        return tuple(Unit(check, host) for host in hosts)
    return (Unit(check, CLUSTER),) if context.host_names else ()


def _places(context: CheckContext, unit: Unit) -> tuple[str, ...]:
    """Hosts a unit looks at."""
    return context.host_names if unit.host == CLUSTER else (unit.host,)


def _with_needs(context: CheckContext, checks: Mapping[str, Check], wanted: Sequence[Unit]) -> tuple[Unit, ...]:
    """Add what the wanted units need, in the order of the checklist and then of the inventory."""
    chosen: set[Unit] = set()
    open_units = list(wanted)
    while open_units:
        unit = open_units.pop()
        if unit in chosen:
            continue
        chosen.add(unit)
        for need in unit.check.needs:
            needed = _units(context, checks[need], _places(context, unit))
            open_units.extend(each for each in needed if each.check.is_source or not _fine(context, each))
    check_order = {check_id: position for position, check_id in enumerate(checks)}
    host_order = {host: position for position, host in enumerate(context.host_names)}
    return tuple(sorted(chosen, key=lambda unit: (check_order[unit.check.id], host_order.get(unit.host, 0))))


def _fine(context: CheckContext, unit: Unit) -> bool:
    """Whether the unit was fine on every host it covers when last asked."""
    places = context.host_names if unit.check.scope == "pair" else (unit.host,)
    findings = [context.findings.get((unit.check.id, place)) for place in places]
    return all(finding is not None and finding.verdict in MET for finding in findings)


async def _run_unit(run: _Run, unit: Unit) -> None:
    try:
        for name in (*unit.check.needs, *unit.check.after):
            for before in _units(run.context, run.checks[name], _places(run.context, unit)):
                if before in run.done:
                    await run.done[before].wait()
        await _answer(run, unit)
    finally:
        run.done[unit].set()


async def _answer(run: _Run, unit: Unit) -> None:
    """Find out, and tell one result for every place the unit answers for."""
    obstacles = {host: _obstacle(run, unit.check, host) for host in _places(run.context, unit)}
    free = tuple(host for host, obstacle in obstacles.items() if obstacle is None)
    per_host = unit.check.scope != "cluster"
    if per_host:
        for host, obstacle in obstacles.items():
            if obstacle is not None:
                _tell(run, unit.check, host, obstacle, 0.0)
    if not free:
        if not per_host:
            _tell(run, unit.check, CLUSTER, next(each for each in obstacles.values() if each is not None), 0.0)
        return

    async with run.slots[unit.host]:
        for host in free if per_host else (CLUSTER,):
            run.progress.put_nowait(CheckStarted(unit.check.id, host))
        started = time.monotonic()
        findings = await _probe(run.context, unit.check, free)
        seconds = time.monotonic() - started
    if per_host:
        for host in free:
            missing = unknown("the check gave no answer for this host")
            _tell(run, unit.check, host, findings.get(host) or findings.get(CLUSTER) or missing, seconds)
        return
    finding = findings[CLUSTER]
    left_out = [host for host in obstacles if host not in free and _blocked(run, unit.check, host)]
    if left_out and finding.verdict is not Verdict.FAIL:
        # What stands in the way has its own red cell; here it is named, with what is known of the others.
        why = obstacles[left_out[0]]
        assert why is not None
        finding = skip(f"{why.reason} ({', '.join(left_out)} not looked at; the others: {finding.reason})")
        run.in_the_way.add((unit.check.id, CLUSTER))
    _tell(run, unit.check, CLUSTER, finding, seconds)


def _need_places(check: Check, host: str) -> str:
    return CLUSTER if check.scope == "cluster" else host


def _obstacle(run: _Run, check: Check, host: str) -> Finding | None:
    """Why the check cannot be asked on this host, or None."""
    for name in check.needs:
        need = run.checks[name]
        finding = run.context.findings.get((name, _need_places(need, host)))
        if finding is None:
            return skip(f"needs “{need.title}”, which has not been asked")
        if finding.verdict is Verdict.SKIP:
            return finding  # it names what is at the root already
        if finding.verdict not in MET:
            said = "failed" if finding.verdict is Verdict.FAIL else "is not known"
            return skip(f"needs “{need.title}” ({name}), which {said}: {finding.reason}")
    return None


def _blocked(run: _Run, check: Check, host: str) -> bool:
    """Whether something wrong (rather than something that does not apply) keeps the check from being asked."""
    return any((name, _need_places(run.checks[name], host)) in run.in_the_way for name in check.needs)


async def _probe(context: CheckContext, check: Check, hosts: tuple[str, ...]) -> Mapping[str, Finding]:
    try:
        async with asyncio.timeout(check.deadline) as limit:
            findings = await check.probe(context, hosts)
    except TimeoutError as error:
        reason = f"no answer within {check.deadline:g} s" if limit.expired() else told(error)
        finding = unknown(reason)
    except RemoteError as error:
        finding = unknown(told(error), evidence=str(error))
    except Exception as error:  # noqa: BLE001  a check that breaks must not take the others along; it is told in full
        finding = unknown(f"the check itself broke: {told(error)}", evidence="".join(traceback.format_exception(error)))
    else:
        return findings
    return dict.fromkeys((*hosts, CLUSTER), finding)


def _tell(run: _Run, check: Check, host: str, finding: Finding, seconds: float) -> None:
    if finding.verdict is Verdict.FAIL and check.severity is Severity.WARNS:
        finding = replace(finding, verdict=Verdict.WARN)
    finding = harmless(finding)
    wrong = finding.verdict in {Verdict.FAIL, Verdict.UNKNOWN}
    if wrong or (finding.verdict is Verdict.SKIP and _blocked(run, check, host)):
        run.in_the_way.add((check.id, host))
    run.context.findings[check.id, host] = finding
    run.progress.put_nowait(CheckResult(check.id, host, finding, seconds))


@dataclass(frozen=True, slots=True)
class Summary:
    """What the checklist says as a whole."""

    counts: Mapping[Verdict, int]
    blocking: tuple[CheckResult, ...]
    """Results that stand in the way of a launch: failed, or a blocking check without an answer."""

    @property
    def exit_code(self) -> int:
        """0 when nothing stands in the way, else 1."""
        return 1 if self.blocking else 0


def summarize(results: Iterable[CheckResult], catalogue: Sequence[Check] | None = None) -> Summary:
    """Count the last result of each check on each host. Warnings do not stand in the way; a blocking unknown does."""
    if catalogue is None:
        from remote.checks.catalogue import CATALOGUE

        catalogue = CATALOGUE
    blocks = {check.id for check in catalogue if check.severity is Severity.BLOCKS}
    last = {(result.check_id, result.host): result for result in results}
    counts = dict.fromkeys(Verdict, 0)
    for result in last.values():
        counts[result.finding.verdict] += 1
    blocking = tuple(result for result in last.values() if _stands_in_the_way(result, blocks))
    return Summary(counts, blocking)


def _stands_in_the_way(result: CheckResult, blocks: Collection[str]) -> bool:
    match result.finding.verdict:
        case Verdict.FAIL:
            return True
        case Verdict.UNKNOWN:
            return result.check_id in blocks
        case _:
            return False
