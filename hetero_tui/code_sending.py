"""The person's code reaches the hosts of a plan before the launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hetero_tui.homecoming import Note
from remote.facts import Facts
from remote.plan import LaunchPlan
from remote.progress import LaunchProgress

if TYPE_CHECKING:
    from remote.hosts import Hosts
    from remote.workdir import Snapshot


async def send_code(
    code: Snapshot,
    plan: LaunchPlan,
    hosts: Hosts,
    facts: Mapping[str, Facts],
    note: Note,
    report: Callable[[LaunchProgress], None],
) -> None:
    """Bring the code that the plan names to its hosts.

    Raises:
        RemoteError: a host could not take it.
    """
    from remote.workdir_sync import sync_all

    names = [host.host for host in plan.hosts]
    connections = {name: (hosts.runner(name), facts[name].home.rstrip("/")) for name in names}
    for synced in await sync_all(code, connections, report):
        if not synced.was_there:
            note(f"sent {synced.files_sent} files of code, {synced.bytes_sent} bytes", host=synced.host)
