"""One run of a cluster at a time on every host: two masters that launch at once must not share GPUs and port.

There is no lock to go stale: what lives on the host is the lock. A run claims a host when its part is created there
(``HostRuntime.create``), holds it while it lives, and gives it back by ending.
"""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from remote.errors import LaunchError, RemoteError
from remote.plan_contract import LABEL_BY
from remote.plan_model import LaunchPlan
from remote.runtime import HostRunState, HostRuntime, State
from remote.text import printable

WAYS_OUT: Final = "follow it with hetero-tui watch, or end it with hetero-tui stop"
ABANDONED_SECONDS: Final = 600.0
"""What was created longer ago and never started was given up: its launcher is gone."""


def this_account() -> str:
    """Return the name of the account that runs this program."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return "?"


def this_master() -> str:
    """Return who launches from here, as ``account@machine``."""
    return f"{this_account()}@{socket.gethostname()}"


def signed(plan: LaunchPlan, by: str) -> LaunchPlan:
    """Return the plan with the launcher's name on every host's part."""
    hosts = (dataclasses.replace(host, labels=(*host.labels, (LABEL_BY, by))) for host in plan.hosts)
    return dataclasses.replace(plan, hosts=tuple(hosts))


def occupied_by(run: HostRunState) -> str:
    """Return in words which run lives on a host, whose it is and since when."""
    by = f", launched by {printable(run.started_by)}" if run.started_by else ""
    since = ""
    if run.started_at > 0:
        since = f", training since {datetime.fromtimestamp(run.started_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    elif run.state is State.CREATED:
        since = ", being launched right now"
    return f"run {printable(run.run_id)} of this cluster is there{by}{since}"


async def refuse_if_occupied(plan: LaunchPlan, runtimes: Mapping[str, HostRuntime]) -> None:
    """Refuse to launch while another run of the cluster trains. Hosts that do not answer are the launch's business.

    Raises:
        LaunchError: who trains there, since when, and where.
    """

    async def living(name: str) -> tuple[HostRunState, ...]:
        try:
            found = await runtimes[name].runs(plan.cluster)
        except (RemoteError, TimeoutError, OSError):
            return ()  # creating the run there meets the same error and tells it
        return tuple(run for run in found if run.state is State.RUNNING and run.run_id != plan.run_id)

    found = await asyncio.gather(*(living(host.host) for host in plan.hosts))
    by_run: dict[str, list[HostRunState]] = {}
    for runs in found:
        for run in runs:
            by_run.setdefault(run.run_id, []).append(run)
    if by_run:
        told = "\n".join(f"{', '.join(run.host for run in runs)}: {occupied_by(runs[0])}" for runs in by_run.values())
        raise LaunchError(f"cluster {plan.cluster} is in use\n{told}", next_step=WAYS_OUT)
