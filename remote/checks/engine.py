"""What starts the containers: a usable Docker Engine, and nothing of an earlier run on it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from remote.checks import platforms, systems
from remote.checks.context import CheckContext, told
from remote.checks.devices import wants_gpu
from remote.checks.model import Check, Finding, Fix, Severity, Verdict, each_host, fail, ok, skip, unknown, warn
from remote.errors import EngineError
from remote.facts import Facts

OLDEST_ENGINE = (20, 10)
"""API 1.41: device requests and the cgroup settings the containers ask for."""


def engine_version(text: str) -> tuple[int, int]:
    """Return the first two numbers of a version; (0, 0) when there are none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def no_engine_finding(facts: Facts, error: EngineError) -> Finding:
    """Say why the engine cannot be used: not there, not running, or not allowed."""
    evidence = "\n".join(
        (
            str(error),
            *(f"{each.path}: {'usable' if each.writable else 'not allowed'}" for each in facts.engine_sockets),
            f"docker command: {facts.docker_cli or 'none'}; groups: {' '.join(facts.groups)}",
        )
    )
    denied = [each.path for each in facts.engine_sockets if not each.writable]
    if denied and not facts.engine_socket:
        return fail(
            f"{facts.user or 'this account'} may not use the engine's socket {denied[0]}",
            evidence,
            Fix(
                f"put {facts.user} into the docker group, then end the kept connection and log in again; whoever is in "
                "that group can become root on the host",
                (f"sudo usermod -aG docker {shlex.quote(facts.user)}",),
                host=facts.host,
                needs_root=True,
                safe=True,
                new_login=True,
            ),
        )
    if special := platforms.no_engine_finding(facts, evidence):
        return special
    if facts.docker_cli or facts.engine_sockets:
        return fail(
            "Docker is installed, but its engine does not answer",
            evidence,
            Fix(
                "start it" if facts.system != "Darwin" else "start Docker Desktop (somebody must be logged in)",
                systems.start_service(facts, "docker"),
                host=facts.host,
                needs_root=facts.system != "Darwin",
                safe=True,
            ),
        )
    install = systems.install(
        facts,
        {
            "debian": "docker.io",
            "fedora": "moby-engine",
            "suse": "docker",
            "arch": "docker",
            "alpine": "docker",
            "macos": "--cask docker",
        },
        'install Docker and let this account use it, or set runtime = "process" for this host',
    )
    allow = (
        (*systems.start_service(facts, "docker"), f"sudo usermod -aG docker {shlex.quote(facts.user)}")
        if install.needs_root
        else ()
    )
    fix = Fix(install.text, (*install.commands, *allow), host=facts.host, needs_root=install.needs_root)
    return fail("no Docker Engine was found", evidence, fix)


def engine_finding(facts: Facts, version: Mapping[str, Any]) -> Finding:
    """Judge the age of an engine that answers."""
    server = str(version.get("Version") or "")
    evidence = f"docker version: engine {server or 'unknown'}, API {version.get('ApiVersion', 'unknown')}"
    if not server:
        return unknown("the engine did not say its version", evidence)
    if engine_version(server) < OLDEST_ENGINE:
        return fail(
            f"engine {server} is older than {'.'.join(map(str, OLDEST_ENGINE))}",
            evidence,
            Fix(
                "upgrade Docker: https://docs.docker.com/engine/install/",
                ("curl -fsSL https://get.docker.com | sudo sh",) if facts.system == "Linux" else (),
                host=facts.host,
                needs_root=True,
            ),
        )
    return ok(f"engine {server}", evidence)


async def _engine(context: CheckContext, name: str) -> Finding:
    if context.host(name).runtime == "process":
        return skip("runtime is process")
    facts = await context.facts(name)
    try:
        version = await context.engine_version(name)
    except EngineError as error:
        return no_engine_finding(facts, error)
    return engine_finding(facts, version)


def engine_kind_finding(facts: Facts, info: Mapping[str, Any], has_gpu_ranks: bool) -> Finding:
    """Judge the way the engine is installed."""
    system = str(info.get("OperatingSystem") or "")
    root = str(info.get("DockerRootDir") or "")
    security = " ".join(str(each) for each in info.get("SecurityOptions") or ())
    evidence = f"docker info: OperatingSystem={system}, DockerRootDir={root}, SecurityOptions={security}"
    if "docker desktop" in system.lower():
        return warn(
            "Docker Desktop: its host network is that of a virtual machine, so the other hosts may not reach the ranks",
            evidence,
            Fix(
                "enable host networking under Settings → Resources → Network (Docker Desktop 4.34 or newer), or use a "
                'Linux engine, or runtime = "process"; “Data ports” proves whether it works',
                host=facts.host,
            ),
        )
    if "/snap/" in f"{root}/":
        finding = fail if has_gpu_ranks else warn
        return finding(
            "Docker from a snap: it sees neither GPUs nor folders outside the home folder",
            evidence,
            Fix(
                "replace the snap by the distribution's or Docker's own package",
                ("sudo snap remove docker", "sudo apt-get update && sudo apt-get install -y docker.io"),
                host=facts.host,
                needs_root=True,
            ),
        )
    if "name=rootless" in security and has_gpu_ranks:
        return warn(
            "rootless engine: GPUs work only without cgroups in the NVIDIA container runtime",
            evidence,
            Fix(
                "switch cgroups off for the NVIDIA container runtime",
                (
                    "sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place",
                    "systemctl --user restart docker",
                ),
                host=facts.host,
                needs_root=True,
            ),
        )
    return ok("rootless engine" if "name=rootless" in security else (system or "engine"), evidence)


async def _engine_kind(context: CheckContext, name: str) -> Finding:
    facts = await context.facts(name)
    return engine_kind_finding(facts, await context.engine_info(name), wants_gpu(context.host(name), facts))


async def _stale_runs(context: CheckContext, name: str) -> Finding:
    engine = context.findings.get(("engine", name))
    if engine is not None and engine.verdict is Verdict.FAIL:
        return skip(f"needs “Docker Engine” (engine), which failed: {engine.reason}")
    try:
        runs = await context.runs(name)
    except EngineError as error:
        return unknown(f"earlier runs could not be listed: {told(error)}", str(error))
    alive = [run for run in runs if run.state == "running" and run.run_id != context.current_run]
    evidence = "; ".join(f"{run.run_id}: {run.state}" for run in runs) or "none of this cluster"
    if alive:
        ids = ", ".join(sorted({run.run_id for run in alive}))
        return fail(
            f"run {ids} is still alive here; its ranks would hold the port and the GPU",
            evidence,
            Fix("stop it from this machine, or attach to it", ("hetero-tui stop cluster.toml",)),
        )
    return ok("no earlier run" if not runs else f"{len(runs)} ended", evidence)


KEPT_QUESTION = "ls -l /dev/char 2>/dev/null | grep -c nvidia"


def gpu_kept_finding(host: str, info: Mapping[str, Any], reply: str) -> Finding:
    """Judge whether a container keeps its GPU when systemd reads its units again.

    Source: https://github.com/NVIDIA/nvidia-container-toolkit/issues/48
    """
    driver = str(info.get("CgroupDriver") or "")
    links = int(reply) if re.fullmatch(r"\s*[0-9]{1,9}\s*", reply) else 0
    evidence = f"docker info: CgroupDriver={driver}; links to GPUs in /dev/char: {links}"
    if driver != "systemd" or links:
        return ok("GPUs stay with their containers", evidence)
    return warn(
        "after `systemctl daemon-reload` (an update is enough) a running container loses its GPU: "
        "Failed to initialize NVML: Unknown Error",
        evidence,
        Fix(
            "make the links systemd looks for (until the next boot; a udev rule makes them last)",
            ("sudo nvidia-ctk system create-dev-char-symlinks --create-all",),
            host=host,
            needs_root=True,
            safe=True,
        ),
    )


async def _gpu_kept(context: CheckContext, name: str) -> Finding:
    facts = await context.facts(name)
    if not wants_gpu(context.host(name), facts) or facts.gpus[0].vendor != "nvidia":
        return skip("the ranks of this host use no NVIDIA GPU")
    completed = await context.runner(name).run(KEPT_QUESTION, timeout=10.0)
    return gpu_kept_finding(name, await context.engine_info(name), completed.stdout)


ENGINE = Check(
    id="engine",
    title="Docker Engine",
    codes=("PF-02", "PF-08", "PF-09", "PF-10"),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does the engine answer this account, and is it 20.10 or newer? Asked over its socket, so a `docker` that "
    "is missing from the PATH of non-interactive logins does not matter. Not asked where runtime is `process`.",
    remedy="Start it, or put the account into the `docker` group and log in again, or install it.",
    probe=each_host(_engine),
    needs=("system",),
    deadline=30.0,
)
ENGINE_KIND = Check(
    id="engine-kind",
    title="Kind of engine",
    codes=("PF-11", "PF-16"),
    severity=Severity.BLOCKS,
    scope="host",
    question="Is it Docker Desktop, a snap, or rootless? Read from `docker info`.",
    remedy="Use a Linux engine from a package; enable host networking in Docker Desktop.",
    probe=each_host(_engine_kind),
    needs=("engine",),
)
GPU_KEPT = Check(
    id="gpu-kept",
    title="GPU stays in the container",
    codes=("PF-55",),
    severity=Severity.WARNS,
    scope="host",
    question="With the systemd cgroup driver, are there the links in /dev/char without which a container loses its GPU "
    "as soon as systemd reads its units again?",
    remedy="`sudo nvidia-ctk system create-dev-char-symlinks --create-all`.",
    probe=each_host(_gpu_kept),
    needs=("engine",),
)
STALE_RUNS = Check(
    id="stale-runs",
    title="No earlier run alive",
    codes=("PF-13",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does anything this program started for this cluster still run? Found by label or run folder.",
    remedy="`hetero-tui stop cluster.toml`, or attach to it.",
    probe=each_host(_stale_runs),
    needs=("system",),
    after=("engine",),
    deadline=30.0,
)
CHECKS = (ENGINE, ENGINE_KIND, GPU_KEPT, STALE_RUNS)
