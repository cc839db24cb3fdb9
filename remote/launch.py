"""From a plan to ranks that train, in two phases: all up and ready, then go.

Nothing may train before every rank is there, for a rendezvous that waits for a rank that never comes tells nobody
which one and why. So every rank imports torch, opens its device and says hello; the launcher compares what runs with
what was planned and only then lets all of them go. Whoever is missing is named with the reason, and everything that
was started is taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from remote.errors import LaunchError, RemoteError
from remote.launch_part import MissingHost, Part, Report
from remote.plan_model import LaunchPlan
from remote.progress import LaunchProgress
from remote.runtime import HostRuntime, State, StoredCheckpoint
from remote.text import one_line
from trainer.events import Hello

__all__ = ["LaunchProgress", "LaunchedRun", "MissingHost", "RanksMissing", "StopReport", "launch", "send", "stop_run"]

TIMEOUT: Final = 60.0
SETTLE: Final = 3.0
"""Seconds to go on listening after the first failure: hosts that fail for the same reason are named together."""
UNDO_TIMEOUT: Final = 30.0
UNDO_GRACE: Final = 1.0


class RanksMissing(LaunchError):
    """Who is missing and why, causes before consequences; everything that was started has been taken back."""

    def __init__(self, run_id: str, missing: tuple[MissingHost, ...], world_size: int) -> None:
        self.run_id = run_id
        self.missing = tuple(sorted(missing, key=lambda each: each.is_consequence))
        self.world_size = world_size
        self.left_behind: Mapping[str, str] = {}
        """Hosts that could not be cleaned up, with the reason."""
        self.was_started = False
        super().__init__("")
        self.describe()

    def describe(self) -> None:
        """Write the message anew from the fields."""
        count = sum(len(each.ranks) for each in self.missing)
        lines = [f"{count} of {self.world_size} ranks did not come up"]
        for each in self.missing:
            ranks = ", ".join(str(rank) for rank in each.ranks)
            lines.append(f"{each.host} (rank {ranks}): {each.reason}")
            lines += [f"    {line}" for line in each.last_lines]
            lines += [f"  → {each.next_step}"] if each.next_step else []
        if self.left_behind:
            lines += [f"could not be cleaned up: {host}: {why}" for host, why in self.left_behind.items()]
            self.next_step = f"end run {self.run_id} there once the hosts answer"
        elif self.was_started:
            lines.append("what had been started was stopped and removed again")
        self.message = "\n".join(lines)
        self.args = (self.message,)


@dataclass(frozen=True, slots=True)
class LaunchedRun:
    """A run whose ranks have all been told to go."""

    run_id: str
    hellos: Mapping[int, Hello]
    """What each rank said of itself, by rank."""
    notes: tuple[str, ...]
    """What is unusual but no reason to stop."""
    seconds: float
    """From the first request to the go."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """How the end of a run went."""

    stopped: tuple[str, ...]
    """Hosts where nothing of the run is left."""
    unreachable: Mapping[str, str]
    """Hosts where something may be left, with the reason; asking again later finishes the job."""


async def launch(
    plan: LaunchPlan,
    runtimes: Mapping[str, HostRuntime],
    report: Report,
    *,
    checkpoint: StoredCheckpoint | None = None,
    before_start: Callable[[], Awaitable[None]] | None = None,
    timeout: float = TIMEOUT,
    settle: float = SETTLE,
    clock: Callable[[], float] = time.monotonic,
) -> LaunchedRun:
    """Create, start, verify and release every host's part of a plan.

    Cancelled or failed, it stops and removes what it has made before it returns.

    Args:
        plan: what to run.
        runtimes: what runs it, by host name; every host of the plan must be there.
        report: told of each host's progress.
        checkpoint: put onto the host of rank 0, from which the other ranks get its state; takes as long as it takes.
        before_start: done once every host is claimed and before any rank starts; takes as long as it takes.
        timeout: seconds until every rank must have said hello.
        settle: seconds to go on listening after the first failure.
        clock: seconds; for the measured duration.

    Raises:
        RanksMissing: some ranks did not come up, or are not what was planned.
        LaunchError: the run is already there.
        RemoteError: what ``before_start`` raises.
    """
    started = clock()
    parts = [Part(host, runtimes[host.host], plan.run_id, report) for host in plan.hosts]
    try:
        async with asyncio.timeout(timeout) as deadline:
            await _refuse_second_launch(plan, parts)
            await _all(parts, Part.create)
            _raise_if_missing(plan, parts)
            if checkpoint is not None or before_start is not None:
                deadline.reschedule(None)
                if before_start is not None:
                    await before_start()
                if checkpoint is not None:
                    await _place(plan, parts, checkpoint)
                deadline.reschedule(asyncio.get_running_loop().time() + timeout)
            await _ready(parts, settle)
            _verify(plan, parts)
            _raise_if_missing(plan, parts)
            await _go(plan, parts)
            _raise_if_missing(plan, parts)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        await _explain_silence(parts, timeout)
        await _undo(plan, parts, report, missing := _missing(plan, parts))
        raise missing from error
    except RanksMissing as missing:
        await _undo(plan, parts, report, missing)
        raise
    except BaseException:
        await _undo(plan, parts, report, None)
        raise
    hellos = {rank: hello for part in parts for rank, hello in part.hellos.items()}
    return LaunchedRun(plan.run_id, hellos, _notes(hellos), clock() - started)


async def stop_run(
    run_id: str, runtimes: Mapping[str, HostRuntime], report: Report, *, grace: float = 10.0
) -> StopReport:
    """End exactly this run on every host, in parallel, and remove what it left. Repeating it does no harm."""
    unreachable: dict[str, str] = {}
    stopped: list[str] = []

    async def one(host: str, runtime: HostRuntime) -> None:
        try:
            async with asyncio.timeout(grace + UNDO_TIMEOUT):
                await runtime.stop(run_id, grace=grace)
        except (RemoteError, TimeoutError, OSError) as error:
            unreachable[host] = one_line(error)
            report(LaunchProgress(host, "failed", f"may still run: {unreachable[host]}"))
        else:
            stopped.append(host)
            report(LaunchProgress(host, "stopped"))

    async with asyncio.TaskGroup() as group:
        for host, runtime in runtimes.items():
            group.create_task(one(host, runtime))
    return StopReport(tuple(sorted(stopped)), dict(sorted(unreachable.items())))


async def send(
    run_id: str,
    runtimes: Mapping[str, HostRuntime],
    message: Mapping[str, object],
    *,
    clock: Callable[[], int] = time.time_ns,
) -> Mapping[str, str]:
    """Send one control message to hosts in parallel, under the same name everywhere.

    The ranks recognise by that name that they got the same message.

    Returns:
        The hosts that did not get it, with the reason.
    """
    failed: dict[str, str] = {}
    stamped = {**message, "sent_ns": clock()}

    async def one(host: str, runtime: HostRuntime) -> None:
        try:
            await runtime.control(run_id, stamped)
        except (RemoteError, TimeoutError, OSError) as error:
            failed[host] = one_line(error)

    async with asyncio.TaskGroup() as group:
        for host, runtime in runtimes.items():
            group.create_task(one(host, runtime))
    return dict(sorted(failed.items()))


async def _refuse_second_launch(plan: LaunchPlan, parts: list[Part]) -> None:
    """Make sure that nothing of this run is there: cleaning up after a failed launch would end it.

    Raises:
        LaunchError: something is there.
    """
    there: list[str] = []

    async def look(part: Part) -> None:
        if (await part.runtime.inspect(part.run_id)).state is not State.MISSING:
            there.append(part.host)

    await _all(parts, look)
    _raise_if_missing(plan, parts)
    if there:
        raise LaunchError(
            f"run {plan.run_id} is already there on {', '.join(sorted(there))}",
            next_step="attach to it or end it; a new launch needs a new run id",
        )


async def _all(parts: list[Part], act: Callable[[Part], Awaitable[None]]) -> None:
    """Do something on every host at once. A host that fails keeps its problem; the others go on."""

    async def one(part: Part) -> None:
        try:
            await act(part)
        except (RemoteError, TimeoutError, OSError) as error:
            part.fail_with(error)

    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(one(part))


async def _place(plan: LaunchPlan, parts: list[Part], checkpoint: StoredCheckpoint) -> None:
    async def place(part: Part) -> None:
        await part.runtime.place(plan.run_id, checkpoint, part.report)

    await _all([part for part in parts if 0 in part.ranks], place)
    _raise_if_missing(plan, parts)


async def _ready(parts: list[Part], settle: float) -> None:
    """Start everything and return when every host is ready, or when those that fail had their time to do so."""
    changed = asyncio.Event()

    async def watch(part: Part) -> None:
        try:
            await part.start_and_watch(changed.set)
        except (RemoteError, TimeoutError, OSError) as error:
            part.fail_with(error)
        changed.set()

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await changed.wait()
            changed.clear()

    watchers = [asyncio.create_task(watch(part)) for part in parts]
    try:
        await until(lambda: all(part.is_ready for part in parts) or any(part.problem for part in parts))
        if any(part.problem for part in parts):
            try:
                async with asyncio.timeout(settle):
                    await until(lambda: all(part.is_ready or part.problem for part in parts))
            except TimeoutError:
                return  # the others are still on their way, which is no failure
    finally:
        for watcher in watchers:
            watcher.cancel()
        results = await asyncio.gather(*watchers, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result  # a mistake in this program, not on a host


def _verify(plan: LaunchPlan, parts: list[Part]) -> None:
    """Compare what the ranks say of themselves with the plan; a difference is the host's problem."""
    for part in parts:
        devices = {each.rank: each.device for each in part.plan.ranks}
        for rank, hello in sorted(part.hellos.items()):
            if rank not in devices:
                part.fail(f"rank {rank} runs here, which the plan does not say")
                continue
            compared = {
                "device": (hello.device, devices[rank]),
                "world size": (hello.world_size, plan.world_size),
                "backend": (hello.backend or plan.backend, plan.backend),
                "host": (hello.host, part.host),
            }
            for what, (found, planned) in compared.items():
                if found != planned:
                    part.fail(f"{what} of rank {rank} is {found}, planned was {planned}")


async def _go(plan: LaunchPlan, parts: list[Part]) -> None:
    by_host = {part.host: part for part in parts}
    failed = await send(plan.run_id, {part.host: part.runtime for part in parts}, {"command": "go"})
    for host, reason in failed.items():
        by_host[host].fail(f"the go did not arrive: {reason}")
    for part in parts:
        if part.problem is None:
            part.tell("go")


async def _explain_silence(parts: list[Part], timeout: float) -> None:
    late = [part for part in parts if part.problem is None and not part.is_ready]
    async with asyncio.TaskGroup() as group:
        for part in late:
            group.create_task(part.explain_silence(timeout))


async def _undo(plan: LaunchPlan, parts: list[Part], report: Report, missing: RanksMissing | None) -> None:
    """Take back everything that may have been made, whatever cancels us meanwhile."""
    made = {part.host: part.runtime for part in parts if part.was_created}
    undoing = asyncio.ensure_future(stop_run(plan.run_id, made, report, grace=UNDO_GRACE))
    while not undoing.done():
        try:
            await asyncio.shield(undoing)
        except asyncio.CancelledError:
            if undoing.cancelled():
                raise
    if missing is not None:
        missing.was_started = bool(made)
        missing.left_behind = undoing.result().unreachable
        missing.describe()


def _missing(plan: LaunchPlan, parts: list[Part]) -> RanksMissing:
    return RanksMissing(plan.run_id, tuple(part.problem for part in parts if part.problem), plan.world_size)


def _raise_if_missing(plan: LaunchPlan, parts: list[Part]) -> None:
    if any(part.problem for part in parts):
        raise _missing(plan, parts)


def _notes(hellos: Mapping[int, Hello]) -> tuple[str, ...]:
    ranks_of: dict[str, list[int]] = {}
    for rank, hello in sorted(hellos.items()):
        if hello.torch_version:
            ranks_of.setdefault(hello.torch_version.partition("+")[0], []).append(rank)
    if len(ranks_of) < 2:
        return ()
    listed = "; ".join(f"{version} on rank {', '.join(map(str, ranks))}" for version, ranks in ranks_of.items())
    return (f"the ranks have different versions of torch: {listed}",)
