"""Measures how quick each host computes the job, where the job will run, before anything is launched.

``python -m trainer.measure`` runs in the job's image with the job's GPUs (or with the host's Python), prints what a
rank would find out about itself, and is gone again.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from remote.checks.context import CheckContext
from remote.errors import CommandFailed, PlanError, RemoteError
from remote.inventory import Inventory
from remote.plan_model import HostPlan, LaunchPlan
from remote.runner import Completed
from remote.speeds import Measured, devices_of, workload_of
from trainer.events import Calibrated, decode

TIMEOUT: Final = 180.0
"""Seconds for a host: the import of torch on a slow disk, then four seconds a device."""
_PASSED: Final = (
    "OMP_NUM_THREADS",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "HETERO_DEVICES",
)
"""Variables of the plan that decide about speed. The others stay away: they may hold secrets, and this is a command
line."""


def command(host: HostPlan) -> tuple[str, ...]:
    """Return the command line that measures a host.

    Raises:
        PlanError: the job is a script.
    """
    if not workload_of(host) or "trainer" not in host.argv:
        raise PlanError("only built-in workloads can be measured before they run", host=host.host)
    variables = [f"{name}={value}" for name, value in host.env if name in _PASSED]
    ranks = len(host.ranks)
    variables += [f"WORLD_SIZE={ranks}", f"LOCAL_WORLD_SIZE={ranks}", "RANK=0"]
    at = host.argv.index("trainer")
    return ("env", *variables, *host.argv[:at], "trainer.measure", *host.argv[at + 1 :])


async def measure_host(context: CheckContext, host: HostPlan) -> Measured:
    """Measure one host.

    Raises:
        RemoteError: it could not be measured, and why.
    """
    argv = command(host)
    try:
        if host.runtime == "process":
            done = await context.runner(host.host).run(shlex.join(argv), timeout=TIMEOUT)
        else:
            engine = await context.engine(host.host)
            done = await engine.run_once(host.image, argv, gpu_uuids=host.gpu_uuids, timeout=TIMEOUT)
    except TimeoutError as error:
        raise CommandFailed(f"measuring did not end within {TIMEOUT:.0f} s", host=host.host) from error
    return read_measurement(host, done, time.time())


def read_measurement(host: HostPlan, done: Completed, at: float) -> Measured:
    """Read what the measuring program printed.

    Raises:
        CommandFailed: it failed, or did not tell of every device.
    """
    said = (done.stderr.strip() or done.stdout.strip() or "nothing")[-400:]
    if done.exit_status != 0:
        old = "No module named trainer.measure" in done.stderr
        raise CommandFailed(
            f"measuring its speed exited {done.exit_status} and said: {said}",
            host=host.host,
            next_step="the trainer there is older than this program: bring the image again" if old else "",
        )
    tables = _tables(done.stdout.splitlines())
    if len(tables) != len(host.ranks):
        raise CommandFailed(f"measured {len(tables)} of {len(host.ranks)} devices and said: {said}", host=host.host)
    return Measured(workload_of(host), devices_of(host), tuple(tables), at, "measured before the launch")


def _tables(lines: Sequence[str]) -> list[tuple[tuple[int, float], ...]]:
    found = []
    for line in lines:
        try:
            event = decode(line)
        except ValueError:
            continue  # plain output that looks like an event
        if isinstance(event, Calibrated) and event.table:
            found.append(event.table)
    return found


async def measure_hosts(
    context: CheckContext,
    inventory: Inventory,
    plan: LaunchPlan,
    report: Callable[[str, str], None],
    only: Sequence[str] | None = None,
) -> tuple[dict[str, Measured], dict[str, RemoteError]]:
    """Measure all hosts at the same time, except those whose speed is simulated.

    Args:
        context: the connections.
        inventory: what was asked for.
        plan: what each host would be started with.
        report: is told (host, what it does).
        only: these hosts; all when None.

    Returns:
        What was measured, and why the others could not be.
    """
    hosts = [
        host
        for host in plan.hosts
        if inventory.host(host.host).simulated_samples_per_second is None and (only is None or host.host in only)
    ]

    async def one(host: HostPlan) -> Measured:
        report(host.host, "measuring")
        try:
            measured = await measure_host(context, host)
        except RemoteError as error:
            report(host.host, f"not measured: {error.message}")
            raise
        report(host.host, "measured")
        return measured

    outcomes = await _gather_quietly([one(host) for host in hosts])
    measured = {host.host: each for host, each in zip(hosts, outcomes, strict=True) if isinstance(each, Measured)}
    failed = {host.host: each for host, each in zip(hosts, outcomes, strict=True) if isinstance(each, RemoteError)}
    return measured, failed


async def _gather_quietly(work: Sequence[Awaitable[Measured]]) -> list[Measured | RemoteError]:
    """Return what each gave, or the remote error it raised; everything else is raised on."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    kept: list[Measured | RemoteError] = []
    for each in outcomes:
        if isinstance(each, (Measured, RemoteError)):
            kept.append(each)
        else:
            raise each
    return kept
