"""Which hosts of a run answer, and how it is said that some do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hetero_tui.homecoming import Homecoming, Note
from hetero_tui.session import HostStatus
from remote.errors import ConnectError
from remote.plan import LaunchPlan
from remote.runtime import HostRunState, HostRuntime
from remote.text import one_line

if TYPE_CHECKING:
    from remote.hosts import Hosts


async def reached(
    plan: LaunchPlan, homecoming: Homecoming, hosts: Hosts
) -> tuple[dict[str, HostRuntime], dict[str, str]]:
    """Return what runs things on those hosts of a plan that answer, and why the others do not."""
    found, missing = await homecoming.reachable(hosts)
    names = [host.host for host in plan.hosts]
    answering = {name: found[name] for name in names if name in found}
    return answering, {name: missing[name] for name in names if name in missing}


async def runs_found(hosts: Hosts, note: Note) -> tuple[HostRunState, ...]:
    """Return what this program started on the hosts that answer, newest run last; the others are noted."""
    found, errors = await hosts.ask_all(hosts.runs)
    for name, error in errors.items():
        if isinstance(error, TimeoutError):
            hosts.gave_up(name, one_line(error))
        note(f"cannot tell what runs there: {one_line(error)}", "warning", host=name)
    return tuple(sorted((run for runs in found.values() for run in runs), key=lambda run: (run.run_id, run.host)))


def require_connected(statuses: Iterable[HostStatus]) -> None:
    """Make sure that every host could be asked.

    Raises:
        ConnectError: some could not; the message names them all.
    """
    if missing := [each for each in statuses if each.phase != "connected"]:
        told = "; ".join(f"{each.host} ({each.detail})" for each in missing)
        raise ConnectError(f"could not ask {told}", next_step="see hetero-tui check")
