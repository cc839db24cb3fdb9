"""One run of a cluster at a time on every host: two masters that launch at once must not share GPUs and port.

There is no lock to go stale: what lives on the host is the lock. A run claims a host when its part is created there
(``HostRuntime.create``), holds it while it lives, and gives it back by ending.
"""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from remote.errors import LaunchError, RemoteError
from remote.plan_contract import LABEL_BY
from remote.plan_model import LaunchPlan
from remote.runner import Runner
from remote.runtime import HostRunState, HostRuntime, State
from remote.text import printable

WAYS_OUT: Final = "follow it with hetero-tui watch, or end it with hetero-tui stop"
ABANDONED_SECONDS: Final = 600.0
"""What was created longer ago and never started was given up: its launcher is gone."""

_CLOCK: Final = re.compile(r"([0-9a-f-]{36})\s+([0-9]{1,12}(?:\.[0-9]{1,6})?)(?:\s.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SinceBoot:
    """A moment on a host by a clock that nobody sets, unlike the one on the wall."""

    boot: str
    """What tells this boot of the host from every other."""
    seconds: float

    def __str__(self) -> str:
        return f"{self.boot} {self.seconds:.2f}"

    @classmethod
    def parse(cls, text: str) -> SinceBoot | None:
        """Read what ``str`` gives or ``/proc`` says; None for anything else."""
        found = _CLOCK.fullmatch(text)
        return cls(found[1], float(found[2])) if found else None


async def since_boot(runner: Runner) -> SinceBoot | None:
    """Ask a host for this moment; None where its system does not say it so (proc(5): only Linux does).

    Raises:
        RemoteError: the host could not be asked.
    """
    said = await runner.run("cat /proc/sys/kernel/random/boot_id /proc/uptime 2>/dev/null")
    return SinceBoot.parse(said.stdout)


def is_being_launched(created: tuple[float, SinceBoot | None], now: tuple[float, SinceBoot | None]) -> bool:
    """Whether what was created and not started may still be on its way, wherever the clock was set meanwhile.

    No launch survives a restart of the host: its connection does not.

    Args:
        created: in seconds since the epoch by the host's clock, and by the one that nobody sets where it is known.
        now: the same of this moment.
    """
    (created_at, made), (moment, here) = created, now
    if made is not None and here is not None:
        return made.boot == here.boot and here.seconds - made.seconds < ABANDONED_SECONDS
    # Only the clock on the wall is left: what lies far ahead of it is as old as what lies far behind.
    return abs(moment - created_at) < ABANDONED_SECONDS


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
