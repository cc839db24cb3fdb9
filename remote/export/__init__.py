"""The same launch plan for other launchers: Compose, Kubernetes, Slurm, torchrun.

Nobody stands by to give the go there, so the ranks begin when they have found each other, and no control messages
reach them: the other launcher starts, stops and restarts them by its own means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from remote.errors import PlanError
from remote.export.compose import compose_file
from remote.export.kubernetes import kubernetes_manifest
from remote.export.slurm import slurm_script
from remote.export.torchrun import torchrun_commands
from remote.plan_model import LaunchPlan

FORMATS: Final[Mapping[str, Callable[[LaunchPlan], str]]] = {
    "compose": compose_file,
    "kubernetes": kubernetes_manifest,
    "slurm": slurm_script,
    "torchrun": torchrun_commands,
}


def export_plan(plan: LaunchPlan, launcher: str) -> str:
    """Return the plan as a file for another launcher, with how to use it in its first lines.

    Args:
        plan: the launch plan.
        launcher: one of ``FORMATS``.

    Raises:
        PlanError: no such launcher, or the plan holds something that the launcher cannot start.
    """
    if launcher not in FORMATS:
        raise PlanError(f"no plan can be written for {launcher!r}", next_step=f"choose one of {', '.join(FORMATS)}")
    if plan.overlay is not None:
        raise PlanError(
            'network.encryption = "wireguard" is set up by this program alone',
            next_step='set it to "none" and use the encryption of that launcher\'s network',
        )
    return FORMATS[launcher](plan)
