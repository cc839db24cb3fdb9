"""The job itself: a plan that can be made, the data on every host, and a place that leaves the ranks alone."""

from __future__ import annotations

import re
import shlex

from remote.checks import data
from remote.checks.context import CheckContext
from remote.checks.devices import wants_gpu
from remote.checks.model import (
    Check,
    Finding,
    Fix,
    Severity,
    Verdict,
    each_host,
    fail,
    ok,
    skip,
    unknown,
    warn,
    whole_cluster,
)
from remote.checks.network_report import HostReport
from remote.errors import InventoryError, PlanError
from remote.facts import Facts
from remote.plan import make_plan

SHARED_MEMORY = 256 << 20
"""Bytes of /dev/shm; Docker's own default of 64 MiB kills data loader workers with a bus error."""
OPEN_FILES = 1024
BUSY = 0.5
"""Part of the CPUs others may use before it is worth a warning."""
GPU_BUSY = 0.1
"""Part of a GPU's memory others may use before it is worth a warning."""
HARMLESS = frozenset({"NCCL_VERSION"})
"""Set by NVIDIA's base images to say what is inside."""
SLOWDOWNS = {
    0x08: "hardware slowdown", 0x20: "too hot (driver)", 0x40: "too hot (hardware)", 0x80: "power brake",
}  # fmt: skip
"""Bits of nvidia-smi's clocks_event_reasons.active that mean trouble. Source: nvml.h, nvmlClocksEventReasons."""


def limits_finding(facts: Facts, report: HostReport) -> Finding:
    """Judge /dev/shm and open files of the place the ranks run in."""
    evidence = f"in the {report.place}: /dev/shm {report.shared_memory} bytes, open files {report.open_files}"
    shared = f"{report.shared_memory / (1 << 20):.0f} MiB of /dev/shm"
    if facts.system == "Linux" and report.shared_memory < SHARED_MEMORY:
        return warn(
            f"{shared}: data loader workers may die with a bus error",
            evidence,
            Fix(
                "make it bigger (until the next boot; /etc/fstab makes it last)",
                ("sudo mount -o remount,size=1G /dev/shm",),
                host=facts.host,
                needs_root=True,
                safe=True,
            ),
        )
    if 0 < report.open_files < OPEN_FILES:
        return warn(
            f"only {report.open_files} open files allowed: many ranks or workers need more",
            evidence,
            Fix(
                "raise the limit and log in again",
                ("echo '* soft nofile 65536' | sudo tee /etc/security/limits.d/hetero-tui.conf",),
                host=facts.host,
                needs_root=True,
                safe=True,
                new_login=True,
            ),
        )
    return ok(f"{shared}, {report.open_files} open files" if report.shared_memory else "fine", evidence)


async def _limits(context: CheckContext, name: str) -> Finding:
    return limits_finding(await context.facts(name), context.report.hosts[name])


def environment_finding(host: str, report: HostReport, planned: frozenset[str]) -> Finding:
    """Find variables the ranks would inherit; those the plan sets are overridden."""
    inherited = {
        name: value
        for name, value in report.environment.items()
        if name not in planned and name not in HARMLESS and not name.lower().endswith("_proxy")
    }
    evidence = "\n".join(f"{name}={value}" for name, value in report.environment.items())
    if not inherited:
        return ok("nothing that the ranks would inherit", evidence)
    where = "the image" if report.place == "container" else "the account's start-up files"
    return warn(
        f"the ranks would inherit {', '.join(inherited)} from {where}",
        evidence,
        Fix(
            f"remove them from {where}, or set them on purpose under env of this host in cluster.toml",
            (f"env | grep -E '^({'|'.join(map(re.escape, inherited))})='",) if report.place == "host" else (),
            host=host,
        ),
    )


async def _environment(context: CheckContext, name: str) -> Finding:
    plan_sets = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT"})
    own = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", *context.host(name).env, *context.inventory.training.env}
    return environment_finding(name, context.report.hosts[name], plan_sets | own)


async def _ask(context: CheckContext, name: str, question: str, path: str, *, timeout: float) -> str:
    """Run a question about a folder, named as in cluster.toml, and return all it said."""
    expanded = f"{(await context.facts(name)).home}/{path[2:]}" if path.startswith("~/") else path
    command = f"exec /bin/sh -s -- {shlex.quote(expanded)}"
    completed = await context.runner(name).run(command, input=question.encode(), timeout=timeout)
    return f"{completed.stdout}{completed.stderr}"


OUTPUT_QUESTION = """
[ -d "$1" ] && echo there; [ -w "$1" ] && echo writable
command -v getenforce >/dev/null 2>&1 && echo "selinux $(getenforce)"
echo end
"""


def output_finding(host: str, path: str, runtime: str, reply: str) -> Finding:
    """Judge whether checkpoints can be written; a container's folder must be there before it starts."""
    said = set(reply.split())
    if "end" not in said:
        return unknown(f"the host gave no answer about {path}", reply)
    quoted = shlex.quote(path)
    if "there" not in said:
        return fail(f"{path} is not there", reply, Fix("make it", (f"mkdir -p {quoted}",), host=host))
    if "writable" not in said:
        return fail(
            f"{path} may not be written",
            reply,
            Fix("give it to this account", (f'sudo chown "$USER" {quoted}',), host=host, needs_root=True),
        )
    if runtime == "docker" and "Enforcing" in said:
        return warn(
            f"SELinux may keep the container out of {path}",
            reply,
            Fix(
                "label the folder for containers",
                (f"sudo chcon -Rt container_file_t {quoted}",),
                host=host,
                needs_root=True,
            ),
        )
    return ok(f"{path} can be written", reply)


async def _output(context: CheckContext, name: str) -> Finding:
    path = context.inventory.training.checkpoint_dir
    if not path:
        return skip("no checkpoint_dir under [training]")
    reply = await _ask(context, name, OUTPUT_QUESTION, path, timeout=15.0)
    return output_finding(name, path, context.host(name).runtime, reply)


LOAD_QUESTION = "cat /proc/loadavg 2>/dev/null || sysctl -n vm.loadavg | tr -d '{}'"


def load_finding(facts: Facts, reply: str) -> Finding:
    """Judge how many CPUs other programs use, over the last minute."""
    found = re.match(r"\s*(\d+[.,]\d+)", reply)
    if found is None or not facts.cpu_count:
        return unknown("the host did not say how busy it is", reply)
    load = float(found[1].replace(",", "."))
    evidence = f"load average {reply.strip()}; {facts.cpu_count} CPUs"
    if load > BUSY * facts.cpu_count:
        return warn(
            f"other programs use about {load:.1f} of its {facts.cpu_count} CPUs: it will be slower than it could be",
            evidence,
            Fix("see what runs, and end what is not needed", ("ps aux --sort=-pcpu | head",), host=facts.host),
        )
    return ok(f"load {load:.1f} of {facts.cpu_count} CPUs", evidence)


async def _load(context: CheckContext, name: str) -> Finding:
    if context.current_run:
        return skip("a run is under way")
    completed = await context.runner(name).run(LOAD_QUESTION, timeout=10.0)
    return load_finding(await context.facts(name), completed.stdout)


GPU_QUESTION = (
    "nvidia-smi --query-gpu=uuid,memory.used,memory.total,clocks_throttle_reasons.active,temperature.gpu,"
    "pcie.link.width.current,pcie.link.width.max --format=csv,noheader,nounits"
)


def gpu_use_finding(facts: Facts, reply: str, exit_status: int) -> Finding:
    """Judge whether the GPUs are free and at full speed."""
    rows = [[cell.strip() for cell in line.split(",")] for line in reply.splitlines() if line.count(",") == 6]
    if exit_status != 0 or not rows:
        return unknown("nvidia-smi did not answer", reply)
    troubles: list[str] = []
    for uuid, used, total, reasons, temperature, *_ in rows:
        name = next((f"GPU {gpu.index}" for gpu in facts.gpus if gpu.uuid == uuid), uuid)
        are_numbers = re.fullmatch(r"[0-9]{1,12}/[0-9]{1,12}", f"{used}/{total}")
        if are_numbers and int(total) and int(used) > GPU_BUSY * int(total):
            troubles.append(f"{name}: {int(used) / 1024:.1f} of {int(total) / 1024:.1f} GiB in use")
        bits = int(reasons, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", reasons) else 0
        troubles += [f"{name}: {words} at {temperature} °C" for bit, words in SLOWDOWNS.items() if bits & bit]
    if not troubles:
        return ok("free and at full speed", reply)
    fix = Fix(
        "end what uses it (a desktop needs about 1 GiB), or see to cooling and power",
        ("nvidia-smi", "nvidia-smi -q -d PERFORMANCE"),
        host=facts.host,
    )
    return warn("; ".join(troubles), reply, fix)


async def _gpu_use(context: CheckContext, name: str) -> Finding:
    if context.current_run:
        return skip("a run is under way")
    facts = await context.facts(name)
    if not wants_gpu(context.host(name), facts):
        return skip("the ranks of this host run on the CPU")
    completed = await context.runner(name).run(GPU_QUESTION, timeout=15.0)
    return gpu_use_finding(facts, completed.stdout or completed.stderr, completed.exit_status)


async def _plan(context: CheckContext, hosts: tuple[str, ...]) -> Finding:
    facts = {name: await context.facts(name) for name in hosts}
    missing = [name for name in context.host_names if name not in facts]
    if missing:
        return unknown(f"nothing is known of {', '.join(missing)}")
    try:
        plan = make_plan(context.inventory, facts, "checklist")
    except (PlanError, InventoryError) as error:
        # What one host's own check has found already is told there, with its fix.
        for check_id in ("interface", "image", "gpu"):
            told = [name for name in hosts if _is_red(context, check_id, name)]
            if told:
                return skip(f"needs “{check_id}”, which is not ok on {', '.join(told)}: {error.message}")
        return fail(str(error).partition("\n")[0], str(error), Fix(error.next_step or "correct cluster.toml"))
    return ok(
        f"{plan.world_size} ranks, {plan.backend}, rank 0 at {plan.master_address}:{plan.master_port}",
        "\n".join(plan.notes),
    )


def _is_red(context: CheckContext, check_id: str, host: str) -> bool:
    finding = context.findings.get((check_id, host))
    if finding is None:
        return False
    # The interface is asked for on every host; a GPU or an image is not.
    return finding.verdict is Verdict.FAIL or (check_id == "interface" and finding.verdict is Verdict.SKIP)


LIMITS = Check(
    id="limits",
    title="Shared memory, open files",
    codes=("PF-18", "PF-19"),
    severity=Severity.WARNS,
    scope="host",
    question=f"Is /dev/shm at least {SHARED_MEMORY >> 20} MiB and may {OPEN_FILES} files be open, where the ranks run?",
    remedy="Containers are started with enough of both; on a host, remount /dev/shm or raise the limit.",
    probe=each_host(_limits),
    needs=("probe",),
)
ENVIRONMENT = Check(
    id="environment",
    title="No stale variables",
    codes=("PF-76",),
    severity=Severity.WARNS,
    scope="host",
    question="Would the ranks inherit NCCL_, GLOO_ or torch variables from the image or from start-up files that the "
    "plan does not set itself?",
    remedy="Remove them, or set them on purpose under `env`.",
    probe=each_host(_environment),
    needs=("probe",),
)
OUTPUT = Check(
    id="output",
    title="Checkpoint folder",
    codes=("PF-20", "PF-75"),
    severity=Severity.BLOCKS,
    scope="host",
    question="Is `checkpoint_dir` there, and may this account write it? Does SELinux keep containers out? Nothing is "
    "written to find out.",
    remedy="Make the folder; change its owner or its label.",
    probe=each_host(_output),
    needs=("system",),
)
LOAD = Check(
    id="load",
    title="CPUs free",
    codes=("PF-74",),
    severity=Severity.WARNS,
    scope="host",
    question=f"Do other programs use less than {BUSY:.0%} of the CPUs, over the last minute?",
    remedy="End them. Threads per rank are set by the plan.",
    probe=each_host(_load),
    needs=("system",),
)
GPU_USE = Check(
    id="gpu-use",
    title="GPUs free and fast",
    codes=("PF-59", "PF-61"),
    severity=Severity.WARNS,
    scope="host",
    question=f"Is less than {GPU_BUSY:.0%} of each GPU's memory in use, and is none slowed down by heat or power?",
    remedy="End what uses it; see to cooling and power.",
    probe=each_host(_gpu_use),
    needs=("gpu",),
)
PLAN = Check(
    id="plan",
    title="Launch plan",
    codes=("PF-63", "PF-64", "PF-65", "PF-67", "PF-68", "PF-69"),
    severity=Severity.BLOCKS,
    scope="cluster",
    question="Do inventory and facts make a plan: every rank once, one backend all ranks can speak, an address, an "
    "image and an interface for each host?",
    remedy="Correct what it names in cluster.toml. Ranks, world size and backend are computed, never typed.",
    probe=whole_cluster(_plan),
    needs=("system",),
    after=("interface", "image", "gpu"),
)
CHECKS = (LIMITS, ENVIRONMENT, LOAD, GPU_USE, data.DATA, OUTPUT, PLAN)
