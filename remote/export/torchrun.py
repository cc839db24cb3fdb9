"""The launch plan as torchrun command lines, one a host, for scripts that are written for torchrun.

https://docs.pytorch.org/docs/stable/elastic/run.html
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Final

from remote.errors import PlanError
from remote.export.shared import environment, header
from remote.plan_model import HostPlan, LaunchPlan
from remote.plan_text import equivalent_command
from trainer.errors import UsageError
from trainer.options import parse

_TRAINER_ARGUMENTS_FROM: Final = 4
"""Behind ``python3 -P -m trainer``."""
_SET_BY_TORCHRUN: Final = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def torchrun_commands(plan: LaunchPlan) -> str:
    """Return a command line for every host.

    Raises:
        PlanError: the plan trains a built-in workload, which needs this program's own agent.
    """
    usage = ("Run each command on its host. Shares are equal under torchrun, and a lost rank restarts all of them.",)
    blocks = [f"# on {host.host}:\n{_command(plan, host)}\n" for host in plan.hosts]
    return "\n".join([header(plan, usage), *blocks])


def _command(plan: LaunchPlan, host: HostPlan) -> str:
    variables = {name: value for name, value in environment(host, without=_SET_BY_TORCHRUN).items() if not _own(name)}
    launched = replace(host, argv=_arguments(plan, host), env=tuple(variables.items()))
    return equivalent_command(launched)


def _arguments(plan: LaunchPlan, host: HostPlan) -> tuple[str, ...]:
    script = _script(host)
    python = host.argv[0]
    return (
        *(python, "-m", "torch.distributed.run"),
        *("--nnodes", str(len(plan.hosts))),
        *("--node-rank", host.variable("NODE_RANK")),
        *("--nproc-per-node", str(len(host.ranks))),
        *("--master-addr", plan.master_address),
        *("--master-port", str(plan.master_port)),
        *script,
    )


def _script(host: HostPlan) -> tuple[str, ...]:
    try:
        script = parse(host.argv[_TRAINER_ARGUMENTS_FROM:]).script
    except UsageError as error:
        raise PlanError(
            f"the trainer's command line {shlex.join(host.argv)} is not readable", host=host.host
        ) from error
    if not script:
        raise PlanError(
            "torchrun starts scripts; a built-in workload needs this program's own agent",
            next_step="set training.script, or choose --format compose, kubernetes or slurm",
        )
    return script


def _own(name: str) -> bool:
    return name.startswith("HETERO_")
