"""The overlay of one run: up when its hosts are claimed, down when nothing of the run is alive any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from remote.errors import RemoteError
from remote.overlay import interface_name
from remote.overlay_host import raise_overlay, take_down
from remote.plan_model import LaunchPlan
from remote.progress import LaunchProgress
from remote.runner import Runner
from remote.runtime import State

if TYPE_CHECKING:
    from remote.hosts import Hosts

Report = Callable[[LaunchProgress], None]


@asynccontextmanager
async def overlaid(
    plan: LaunchPlan, hosts: Hosts, report: Report
) -> AsyncIterator[Callable[[], Awaitable[None]] | None]:
    """Yield what raises the plan's overlay, None for a plan without one; when the body fails, it is taken down."""
    overlay = plan.overlay
    if overlay is None:
        yield None
        return

    async def up() -> None:
        runners = {each.host: await hosts.connected(each.host) for each in overlay.hosts}
        await raise_overlay(overlay, runners, report=lambda host, what: report(LaunchProgress(host, "created", what)))

    try:
        yield up
    except BaseException:
        left = await clear(hosts, [each.host for each in overlay.hosts], plan.run_id)
        for host, why in left.items():
            report(LaunchProgress(host, "failed", f"the overlay is left there: {why}"))
        raise


async def clear(hosts: Hosts, names: Collection[str], run_id: str) -> Mapping[str, str]:
    """Take down the overlay of a run on some hosts; return where it is left, with the reason."""
    runners, left = await _runners(hosts, names)
    cluster = hosts.inventory.cluster.name
    return {**left, **await take_down(runners, cluster, overlay=interface_name(run_id))}


async def sweep(hosts: Hosts) -> Mapping[str, str]:
    """Take down every overlay of the cluster that belongs to no living run; return where one is left, and why."""
    runners, left = await _runners(hosts, [host.name for host in hosts.inventory.hosts])
    living: dict[str, tuple[str, ...]] = {}
    for name in tuple(runners):
        try:
            found = await hosts.runs(name)
        except RemoteError as error:
            left[name] = error.message
            del runners[name]
        else:
            living[name] = tuple(run.run_id for run in found if run.state is not State.EXITED)
    return {**left, **await take_down(runners, hosts.inventory.cluster.name, living=living)}


async def _runners(hosts: Hosts, names: Collection[str]) -> tuple[dict[str, Runner], dict[str, str]]:
    runners: dict[str, Runner] = {}
    left: dict[str, str] = {}

    async def one(name: str) -> None:
        try:
            runners[name] = await hosts.connected(name)
        except RemoteError as error:
            left[name] = error.message

    await asyncio.gather(*(one(name) for name in names))
    return runners, left
