"""The plan for other launchers, each judged by that launcher's own reader."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import TypeAdapter

from remote.errors import PlanError
from remote.export import FORMATS, export_plan
from remote.facts import Facts
from remote.inventory import load_inventory
from remote.plan import LaunchPlan, make_plan
from tests.ssh.checking import free_port
from trainer.options import parse

GOLDEN = Path(__file__).parent.parent / "golden" / "plan"
FACTS = TypeAdapter(dict[str, Facts])
CONTAINERS = ("all-cpu", "all-gpu-nccl", "two-one-no-gpu")


def plan_of(case: str) -> LaunchPlan:
    facts = FACTS.validate_json((GOLDEN / case / "facts.json").read_bytes())
    return make_plan(load_inventory(GOLDEN / case / "cluster.toml"), facts, "20261123-034500-ab12")


def hostile(plan: LaunchPlan) -> LaunchPlan:
    """The same plan with what shells and templates would eat in its variables and arguments."""
    nasty = "a b $HOME $(id) \"'`x`' %d\\"
    hosts = tuple(replace(each, env=(*each.env, ("NASTY", nasty)), argv=(*each.argv, nasty)) for each in plan.hosts)
    return replace(plan, hosts=hosts)


@pytest.mark.parametrize("case", CONTAINERS)
@pytest.mark.parametrize("launcher", ["compose", "kubernetes", "slurm"])
def test_every_rank_is_told_what_the_plan_tells_it(case: str, launcher: str) -> None:
    plan = plan_of(case)
    text = export_plan(plan, launcher)
    for host in plan.hosts:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "HETERO_RANKS", "HETERO_DEVICES", "GLOO_SOCKET_IFNAME"):
            assert name in text
            assert host.variable(name) in text
    assert "HETERO_CONTROL" not in text


@pytest.mark.parametrize("case", CONTAINERS)
def test_kubernetes_reads_the_manifest(case: str) -> None:
    plan = hostile(plan_of(case))
    manifest = yaml.safe_load(export_plan(plan, "kubernetes"))
    assert len(manifest["items"]) == len(plan.hosts)
    for job, host in zip(manifest["items"], plan.hosts, strict=True):
        kubernetes_validate.validate(job, "1.34", strict=True)
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job["metadata"]["name"])
        container = job["spec"]["template"]["spec"]["containers"][0]
        assert container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0) == len(host.gpu_uuids)
        given = {each["name"]: each["value"].replace("$$(", "$(") for each in container["env"]}
        assert given["NASTY"] == dict(host.env)["NASTY"]
        assert [word.replace("$$(", "$(") for word in container["args"]] == list(host.argv[1:])


def _compose_config(path: Path) -> dict[str, Any]:
    command = ["docker-compose", "--file", str(path), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = yaml.safe_load(done.stdout)
    return loaded


@pytest.mark.parametrize("case", CONTAINERS)
def test_compose_reads_the_file(case: str, tmp_path: Path) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    plan = hostile(plan_of(case))
    (tmp_path / "compose.yaml").write_text(export_plan(plan, "compose"), encoding="utf-8")
    services = _compose_config(tmp_path / "compose.yaml")["services"]
    for host in plan.hosts:
        service = services[host.host]
        assert service["network_mode"] == "host"
        # The reader writes what it read with its own escapes again.
        command = [word.replace("$$", "$") for word in service["command"]]
        assert [*service["entrypoint"], *command] == list(host.argv)
        assert service["environment"]["RANK"] == host.variable("RANK")
        assert service["environment"]["NASTY"].replace("$$", "$") == dict(host.env)["NASTY"]


@pytest.mark.parametrize("case", [*CONTAINERS, "process-and-docker", "one-host"])
def test_slurm_starts_one_component_a_host_with_the_words_of_the_plan(case: str, tmp_path: Path) -> None:
    plan = hostile(plan_of(case))
    text = export_plan(plan, "slurm")
    script = tmp_path / "job.sh"
    script.write_text(text, encoding="utf-8")
    assert text.count("#SBATCH hetjob") == len(plan.hosts) - 1
    commands = tmp_path / "bin"
    commands.mkdir()
    # In place of srun and apptainer: run each component's command and print the words the agent would get.
    (commands / "srun").write_text(
        '#!/bin/bash\nshift\nwhile [ $# -gt 0 ]; do case "$1" in --het-group=*|:) shift ;; *) '
        '"$1" "$2" "$3"; shift 3 ;; esac; done\n'
    )
    (commands / "apptainer").write_text('#!/bin/bash\nwhile [ "$1" != env ]; do shift; done; exec "$@"\n')
    for host in plan.hosts:
        python = commands / Path(host.argv[0]).name
        python.write_text('#!/bin/bash\nprintf \'%s\\0\' "$RANK" "$NASTY" "$@"; printf \'\\0\\0\'\n')
    for each in commands.iterdir():
        each.chmod(0o755)
    for host in plan.hosts:
        if host.argv[0].startswith("/"):
            text = text.replace(host.argv[0], str(commands / Path(host.argv[0]).name))
    script.write_text(text, encoding="utf-8")
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told = [part.split(b"\0") for part in done.stdout.split(b"\0\0\0") if part]
    assert [[word.decode() for word in words] for words in told] == [
        [host.variable("RANK"), dict(host.env)["NASTY"], *host.argv[1:]] for host in plan.hosts
    ]


def _slurm_configuration(folder: Path, nodes: set[str]) -> str:
    """A controller without daemons on nodes: cloud nodes count as available."""
    return "\n".join(
        [
            "ClusterName=test",
            f"SlurmctldHost={socket.gethostname().split('.')[0]}(127.0.0.1)",
            f"SlurmctldPort={free_port()}",
            "AuthType=auth/none",
            "CredType=cred/none",
            f"SlurmUser={getpass.getuser()}",
            f"StateSaveLocation={folder}/state",
            f"SlurmctldPidFile={folder}/controller.pid",
            "GresTypes=gpu",
            "SelectType=select/cons_tres",
            "SuspendProgram=/bin/true",
            "ResumeProgram=/bin/true",
            "SuspendTime=300",
            f"NodeName={','.join(sorted(nodes))} NodeAddr=127.0.0.1 CPUs=64 Gres=gpu:8 State=CLOUD",
            "PartitionName=all Nodes=ALL Default=YES State=UP\n",
        ]
    )


def test_slurm_accepts_the_scripts(tmp_path: Path) -> None:
    if shutil.which("sbatch") is None or shutil.which("slurmctld") is None:
        pytest.skip("Slurm is not installed")
    plans = [plan_of(case) for case in (*CONTAINERS, "process-and-docker")]
    (tmp_path / "state").mkdir()
    (tmp_path / "slurm.conf").write_text(_slurm_configuration(tmp_path, {h.host for p in plans for h in p.hosts}))
    environment = dict(os.environ, SLURM_CONF=str(tmp_path / "slurm.conf"))
    controller = subprocess.Popen(["slurmctld", "-D"], env=environment, stderr=subprocess.DEVNULL)
    try:
        ping = ["scontrol", "ping"]
        deadline = time.monotonic() + 30
        while b"is UP" not in subprocess.run(ping, env=environment, capture_output=True, check=False).stdout:
            assert time.monotonic() < deadline, "slurmctld did not come up"
            assert controller.poll() is None, "slurmctld ended"
        for number, plan in enumerate(plans):
            script = tmp_path / f"job-{number}.sh"
            script.write_text(export_plan(plan, "slurm"), encoding="utf-8")
            command = ["sbatch", "--test-only", str(script)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert all(host.host in done.stderr for host in plan.hosts)
    finally:
        controller.terminate()
        controller.wait()


def test_torchrun_gets_the_script_with_its_arguments() -> None:
    plan = plan_of("process-and-docker")
    text = export_plan(plan, "torchrun")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(plan.hosts)
    for line, host in zip(lines, plan.hosts, strict=True):
        words = shlex.split(line)
        at = words.index("torch.distributed.run")
        assert words[at + 1 :] == [
            *("--nnodes", "3", "--node-rank", host.variable("NODE_RANK")),
            *("--nproc-per-node", str(len(host.ranks))),
            *("--master-addr", plan.master_address, "--master-port", str(plan.master_port)),
            *parse(host.argv[4:]).script,
        ]


def test_torchrun_refuses_a_built_in_workload() -> None:
    with pytest.raises(PlanError, match="own agent"):
        export_plan(plan_of("all-cpu"), "torchrun")


@pytest.mark.parametrize("launcher", ["compose", "kubernetes"])
def test_plain_processes_are_refused_where_only_containers_run(launcher: str) -> None:
    with pytest.raises(PlanError, match="rig, macbook"):
        export_plan(plan_of("process-and-docker"), launcher)


def test_an_unknown_launcher_is_refused_with_the_list() -> None:
    with pytest.raises(PlanError, match="choose one of compose, kubernetes, slurm, torchrun"):
        export_plan(plan_of("all-cpu"), "nomad")
    assert len(FORMATS) == 4
