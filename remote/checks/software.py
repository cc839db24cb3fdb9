"""What the ranks run on: Python, torch and the trainer, in the virtual environment or in the image."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from remote.checks import systems
from remote.checks.context import CheckContext
from remote.checks.devices import wants_gpu
from remote.checks.engine import engine_version
from remote.checks.model import (
    Check,
    Finding,
    Fix,
    Severity,
    each_host,
    fail,
    ok,
    skip,
    unknown,
    warn,
    whole_cluster,
)
from remote.checks.software_report import QUESTION, Software, read_software
from remote.errors import EngineError, PlanError
from remote.facts import Facts
from remote.plan_devices import choose_devices
from remote.runner import Completed

OLDEST_PYTHON = (3, 11)
IN_CONTAINER = "/hetero/software.py"


@dataclass(frozen=True, slots=True)
class Bed:
    """What the software lies in, for messages and fixes."""

    facts: Facts
    python: str
    """Path of the interpreter, or its name in the image."""
    image: str = ""
    wants_gpu: bool = False

    @property
    def name(self) -> str:
        """How a message calls it."""
        return self.image or self.python

    def install(self, package: str) -> Fix:
        """Bring a package in."""
        if self.image:
            return Fix(
                f"put it into the image and bring the image to the host again: `RUN pip install {package}` in the "
                "Dockerfile",
                host=self.facts.host,
            )
        command = f"{shlex.quote(self.python)} -m pip install {package}"
        return Fix("install it into that Python", (command,), host=self.facts.host, safe=True)


def software_finding(bed: Bed, completed: Completed, software: Software | None) -> Finding:
    """Judge what a Python said; ``software`` is None when it said nothing that can be read."""
    evidence = f"{bed.name}: import torch, trainer; multiply on every device: exit {completed.exit_status}\n"
    evidence += f"{completed.stdout}{completed.stderr}"[-4000:]
    if software is None:
        return _silent(bed, completed, evidence)
    if engine_version(software.python) < OLDEST_PYTHON:
        return fail(
            f"{bed.name} has Python {software.python}; the trainer needs {'.'.join(map(str, OLDEST_PYTHON))} or newer",
            evidence,
            systems.install(
                bed.facts,
                {"debian": "python3.11 python3.11-venv", "fedora": "python3.11", "macos": "python@3.12"},
                "install a newer Python and make the virtual environment with it",
            )
            if not bed.image
            else Fix("build the image on a newer Python", host=bed.facts.host),
        )
    if not software.torch:
        why = software.torch_error or "not importable"
        return fail(f"{bed.name} cannot import torch: {why}", evidence, bed.install("'hetero-tui[trainer]'"))
    if not software.trainer:
        why = software.trainer_error or "not importable"
        return fail(f"{bed.name} cannot import the trainer: {why}", evidence, bed.install("hetero-tui"))
    if not software.distributed:
        return fail(
            f"{bed.name}: this build of torch has no torch.distributed",
            evidence,
            bed.install("--force-reinstall torch"),
        )
    return _devices(bed, software, evidence)


def _silent(bed: Bed, completed: Completed, evidence: str) -> Finding:
    if completed.exit_status == 0:
        return unknown(f"{bed.name} gave an answer that cannot be read", evidence)
    fix = (
        Fix("use an image with python3, torch and the trainer", host=bed.facts.host)
        if bed.image
        else Fix(
            "make a virtual environment with the trainer and name its Python as `python` of this host",
            ("python3 -m venv ~/hetero", "~/hetero/bin/pip install 'hetero-tui[trainer]'"),
            host=bed.facts.host,
            safe=True,
        )
    )
    missing = completed.exit_status in {126, 127}
    reason = f"{bed.name} is not there" if missing else f"{bed.name} broke while importing torch and the trainer"
    return fail(reason, evidence, fix)


def _devices(bed: Bed, software: Software, evidence: str) -> Finding:
    gpus = [(name, error) for name, error in software.devices if name.startswith("cuda")]
    if bed.wants_gpu and not software.cuda:
        return fail(
            f"torch {software.torch} knows no CUDA, though its ranks are to use {bed.facts.gpus[0].name}",
            evidence,
            bed.install("--force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"),
        )
    if bed.wants_gpu and not gpus:
        return fail(
            f"torch {software.torch} with CUDA {software.cuda} sees no GPU",
            evidence,
            Fix(
                "see what it says; the driver may be older than this CUDA needs",
                (f"{shlex.quote(bed.python)} -c 'import torch; torch.cuda.init()'", "nvidia-smi"),
                host=bed.facts.host,
            ),
        )
    broken = [(name, error) for name, error in software.devices if error and (bed.wants_gpu or name == "cpu")]
    if broken:
        name, error = broken[0]
        has = f"; the build has {', '.join(software.architectures)}" if software.architectures else ""
        return fail(
            f"{name} does not compute: {error}{has}",
            evidence,
            Fix(
                "use a build of torch (or an image) made for this GPU: newer for a newer one, older for an older one",
                ("nvidia-smi --query-gpu=name,compute_cap --format=csv",),
                host=bed.facts.host,
            ),
        )
    what = f"Python {software.python}, torch {software.torch}"
    if bed.facts.gpus and not bed.wants_gpu:
        return ok(f"{what}; the GPU is left alone", evidence)
    return ok(f"{what}, {len(gpus)} GPU" if gpus else what, evidence)


async def _python(context: CheckContext, name: str) -> Finding:
    context.software.pop(name, None)
    if context.host(name).runtime != "process":
        return skip("the image brings its own Python")
    facts, python = await context.facts(name), await context.python(name)
    command = f"exec {shlex.quote(python)} -"
    completed = await context.runner(name).run(command, input=QUESTION.encode(), timeout=90.0)
    return _judged(context, name, Bed(facts, python, wants_gpu=wants_gpu(context.host(name), facts)), completed)


async def _image_python(context: CheckContext, name: str) -> Finding:
    context.software.pop(name, None)
    facts, ref, host = await context.facts(name), await context.image_ref(name), context.host(name)
    wanted = wants_gpu(host, facts)
    try:
        uuids = tuple(gpu.uuid for gpu in choose_devices(host, facts).gpus)
    except PlanError as error:
        return unknown(f"which GPUs to hand in is not known: {error.message}")
    engine = await context.engine(name)
    files = {IN_CONTAINER: QUESTION.encode()}
    try:
        completed = await engine.run_once(ref, ("python3", IN_CONTAINER), files=files, gpu_uuids=uuids, timeout=100.0)
    except EngineError as error:
        return fail(error.message, str(error), Fix(error.next_step, host=name) if error.next_step else None)
    return _judged(context, name, Bed(facts, "python3", image=ref, wants_gpu=wanted), completed)


def _judged(context: CheckContext, name: str, bed: Bed, completed: Completed) -> Finding:
    software = read_software(completed.stdout)
    if software is not None:
        context.software[name] = software
    return software_finding(bed, completed, software)


def same_software_finding(software: Mapping[str, Software]) -> Finding:
    """Compare versions that must agree: torch's, and NCCL's where every rank has it."""
    evidence = "\n".join(f"{host}: torch {each.torch}, NCCL {each.nccl or 'none'}" for host, each in software.items())
    if len(software) < 2:
        return ok("one host only" if software else "nothing to compare", evidence)
    torch = _by_version({host: _release(each.torch) for host, each in software.items()})
    if len({version.rpartition(".")[0] for version in torch}) > 1:
        return fail(f"different torch: {_listing(torch)}", evidence, _align())
    if all(each.nccl for each in software.values()):
        nccl = _by_version({host: each.nccl for host, each in software.items()})
        if len(nccl) > 1:
            return fail(f"different NCCL: {_listing(nccl)}", evidence, _align())
    if len(torch) > 1:
        return warn(f"different torch: {_listing(torch)}", evidence, _align())
    return ok(f"torch {next(iter(torch))} on all of them", evidence)


def _release(version: str) -> str:
    """``2.13.0`` of ``2.13.0+cu126``: the build may differ, the release must not."""
    found = re.match(r"\d+(\.\d+)*", version)
    return found[0] if found else version


def _by_version(versions: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for host, version in versions.items():
        grouped.setdefault(version, []).append(host)
    return grouped


def _listing(grouped: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{version} on {', '.join(hosts)}" for version, hosts in grouped.items())


def _align() -> Fix:
    return Fix("give all hosts the same: one image, or the same pinned version in every virtual environment")


async def _same_software(context: CheckContext, hosts: tuple[str, ...]) -> Finding:
    known = {
        name: context.software[name] for name in hosts if name in context.software and context.software[name].torch
    }
    finding = same_software_finding(known)
    silent = [name for name in hosts if name not in known]
    if silent and finding.verdict in {"ok", "warn"}:
        for name in silent:
            which = PYTHON if context.host(name).runtime == "process" else IMAGE_PYTHON
            if (which.id, name) in context.findings:
                return skip(f"needs “{which.title}” ({which.id}), which is not ok on {name}; {finding.reason}")
        return unknown(f"{finding.reason}; not known of {', '.join(silent)}", finding.evidence)
    return finding


PYTHON = Check(
    id="python",
    title="Python, torch and trainer",
    codes=("PF-57",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Where runtime is `process`: does `python` of the host import torch and the trainer, and does a "
    "multiplication come out right on every device? It really does both, as the ranks will.",
    remedy="`pip install 'hetero-tui[trainer]'` into a virtual environment, named as `python` in cluster.toml.",
    probe=each_host(_python),
    needs=("system",),
    after=("gpu",),
    is_source=True,
    deadline=120.0,
)
IMAGE_PYTHON = Check(
    id="image-python",
    title="torch and trainer in the image",
    codes=("PF-56",),
    severity=Severity.BLOCKS,
    scope="host",
    question="The same in a container of the job's image, with the job's flags and GPUs. It is removed afterwards.",
    remedy="Rebuild the image with torch and the trainer; a build of torch made for this GPU.",
    probe=each_host(_image_python),
    needs=("image",),
    after=("gpu-containers",),
    is_source=True,
    deadline=120.0,
)
SAME_SOFTWARE = Check(
    id="same-torch",
    title="Same torch everywhere",
    codes=("PF-26",),
    severity=Severity.BLOCKS,
    scope="cluster",
    question="Have all ranks the same release of torch, and the same NCCL where all have one? The build (CUDA, CPU) "
    "may differ.",
    remedy="One image for all, or the same pinned version.",
    probe=whole_cluster(_same_software),
    needs=("system",),
    after=("python", "image-python"),
)
CHECKS = (PYTHON, IMAGE_PYTHON, SAME_SOFTWARE)
