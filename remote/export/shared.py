"""What the writers of plans for other launchers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import yaml

from remote.errors import PlanError
from remote.plan_model import HostPlan, LaunchPlan

LAUNCHED_BY_US: Final = ("HETERO_CONTROL",)
"""Without a folder for control messages a rank does not wait for the launcher's go."""


def environment(host: HostPlan, *, without: Iterable[str] = ()) -> dict[str, str]:
    """Return the host's variables for a launcher that gives no go, less those that the launcher sets itself."""
    left_out = {*LAUNCHED_BY_US, *without}
    return {name: value for name, value in host.env if name not in left_out}


def only_containers(plan: LaunchPlan, launcher: str) -> None:
    """Refuse a plan with ranks that run in no container.

    Raises:
        PlanError: names the hosts.
    """
    processes = [host.host for host in plan.hosts if host.runtime != "docker"]
    if processes:
        raise PlanError(
            f"{launcher} starts containers, and {', '.join(processes)} would run plain processes",
            next_step='give these hosts runtime = "docker", leave them out, or use --format slurm',
        )


def header(plan: LaunchPlan, usage: Iterable[str]) -> str:
    """Return comment lines: what the file is and how it is used."""
    title = (
        f"run {plan.run_id} of {plan.cluster}: {plan.world_size} ranks on {len(plan.hosts)} hosts, {plan.backend}, "
        f"rendezvous {plan.master_address}:{plan.master_port}"
    )
    return "".join(f"# {line}".rstrip() + "\n" for line in (title, *usage))


def to_yaml(value: Any) -> str:
    """Return YAML with the keys in the order they were put in."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
    return text
