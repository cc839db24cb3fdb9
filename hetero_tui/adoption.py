"""Taking over a run of which this machine keeps nothing: another machine launched it, or its folder here is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from remote.facts import Facts
from remote.inventory import Inventory
from remote.plan import make_plan
from remote.resume import without_hosts
from remote.run_dir import RunDir, RunDirError
from remote.runtime import HostRunState


class Hosts(Protocol):
    """What can be asked about the hosts of the inventory."""

    def require_all_connected(self) -> None: ...

    async def find_runs(self) -> tuple[HostRunState, ...]: ...

    async def read_facts(self) -> Mapping[str, Facts]: ...


async def open_or_adopt(inventory: Inventory, experiments: Path, run_id: str, hosts: Hosts) -> RunDir:
    """Open the folder of a run, or make it for a run that lives on the hosts; its whole past is in their logs.

    The plan is made anew then, and holds only if it says what the hosts do: the same ranks in the same places.

    Args:
        inventory: the cluster.
        experiments: where runs are kept.
        run_id: which run.
        hosts: asked when nothing of the run is kept.

    Raises:
        RunDirError: the run is neither kept nor on a host, or is not what this inventory would start.
        PlanError: no plan can be made of the inventory.
        RemoteError: nothing is kept, and a host cannot be asked.
    """
    cluster = inventory.cluster.name
    if RunDir.folder(experiments, cluster, run_id).is_dir():
        return RunDir.open(experiments, cluster, run_id)
    hosts.require_all_connected()
    found = await hosts.find_runs()
    there = {state.host: tuple(sorted(state.ranks)) for state in found if state.run_id == run_id}
    if not there:
        known = ", ".join(RunDir.run_ids(experiments, cluster)[-5:]) or "none"
        raise RunDirError(
            f"no run {run_id!r} of {cluster!r} in {experiments}, nor on the hosts",
            next_step=f"runs stored there: {known}",
        )
    taking_part = without_hosts(inventory, [host.name for host in inventory.hosts if host.name not in there])
    facts = await hosts.read_facts()
    plan = make_plan(taking_part, facts, run_id)
    planned = {host.host: tuple(sorted(each.rank for each in host.ranks)) for host in plan.hosts}
    if planned != there:
        raise RunDirError(
            f"run {run_id} was launched from another cluster.toml: it has {_named(there)}, this one means "
            f"{_named(planned)}",
            next_step="watch it with the file that it was launched with; hetero-tui stop works with this one too",
        )
    run_dir = RunDir.create(experiments, cluster, run_id)
    run_dir.write_plan(plan)
    run_dir.write_facts(facts)
    return run_dir


def _named(ranks: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"rank {'+'.join(map(str, own))} on {host}" for host, own in sorted(ranks.items()))
