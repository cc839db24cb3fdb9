"""The launch plan as a Slurm batch script: a heterogeneous job with one component a host.

https://slurm.schedmd.com/heterogeneous_jobs.html
"""

from __future__ import annotations

import shlex
from typing import Final

from remote.export.shared import environment, header
from remote.plan_contract import OUTPUT_FOLDER
from remote.plan_model import HostPlan, LaunchPlan

_CHOSEN_BY_SLURM: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def slurm_script(plan: LaunchPlan) -> str:
    """Return a script for ``sbatch``. Containers run in Apptainer, plain processes as they are."""
    usage = (
        "    sbatch FILE",
        "Node names are the names of the hosts. Containers need Apptainer on the nodes; the image is taken from its",
        "registry. Checkpoints come to a folder with the run's id in the folder of submission.",
    )
    components = [_component(plan, host) for host in plan.hosts]
    steps = " : \\\n     ".join(
        f"--het-group={at} bash -c {shlex.quote(_command(host))}" for at, host in enumerate(plan.hosts)
    )
    if len(plan.hosts) == 1:
        steps = f"bash -c {shlex.quote(_command(plan.hosts[0]))}"
    return "\n".join(
        [
            "#!/bin/bash",
            header(plan, usage).rstrip("\n"),
            "\n#SBATCH hetjob\n".join(components),
            "",
            "set -eu",
            f'export RUN_FOLDER="$SLURM_SUBMIT_DIR"/{shlex.quote(plan.run_id)}',
            *(f'mkdir -p "$RUN_FOLDER"/{shlex.quote(host.host)}' for host in plan.hosts),
            f"srun --kill-on-bad-exit=1 {steps}",
            "",
        ]
    )


def _component(plan: LaunchPlan, host: HostPlan) -> str:
    lines = [
        f"#SBATCH --job-name={shlex.quote(plan.cluster)}",
        f"#SBATCH --nodes=1 --ntasks=1 --nodelist={shlex.quote(host.host)}",
    ]
    gpus = [rank for rank in host.ranks if rank.device.startswith("cuda")]
    if gpus:
        lines.append(f"#SBATCH --gres=gpu:{len(gpus)}")
    threads = host.variable("OMP_NUM_THREADS")
    if threads.isdigit():
        lines.append(f"#SBATCH --cpus-per-task={int(threads) * len(host.ranks)}")
    return "\n".join(lines)


def _command(host: HostPlan) -> str:
    has_gpu = any(rank.device.startswith("cuda") for rank in host.ranks)
    variables = environment(host, without=_CHOSEN_BY_SLURM if has_gpu else ())
    own_folder = f'"$RUN_FOLDER"/{shlex.quote(host.host)}'
    mounted = {target for _, target, _ in host.mounts}
    words = ["exec"]
    if host.runtime == "docker":
        words += ["apptainer", "exec", "--writable-tmpfs", *(["--nv"] if has_gpu else [])]
        if host.working_dir:
            words += ["--pwd", host.working_dir]
        for source, target, mode in host.mounts:
            words += ["--bind", shlex.quote(f"{source}:{target}:{mode}")]
        if OUTPUT_FOLDER not in mounted:
            words += ["--bind", f"{own_folder}:{OUTPUT_FOLDER}"]
        words.append(shlex.quote(f"docker://{host.image}"))
    else:
        del variables["HETERO_OUTPUT"]
    words.append("env")
    if host.runtime != "docker":
        words.append(f"HETERO_OUTPUT={own_folder}")
    words += [shlex.quote(f"{name}={value}") for name, value in variables.items()]
    words += [shlex.quote(word) for word in host.argv]
    return " ".join(words)
