"""Room on the host: disk for the image and the run, memory for the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remote.checks.context import CheckContext
from remote.checks.model import Check, Finding, Fix, Severity, each_host, fail, ok, unknown, warn
from remote.errors import EngineError
from remote.facts import Facts

GIB = 1 << 30
IMAGE_ROOM = 8 * GIB
"""Free bytes for an image that is not there yet: a CUDA torch image is 6 to 8 GiB unpacked."""
RUN_ROOM = GIB
"""Free bytes for checkpoints and logs."""
RANK_MEMORY = GIB
"""Free bytes of memory: importing torch and one small rank take about 0.5 GiB."""
COMFORTABLE_MEMORY = 2 * GIB


def gib(count: int) -> str:
    """Write bytes as GiB."""
    return f"{count / GIB:.1f} GiB"


def disk_finding(facts: Facts, runtime: str, image_present: bool | None) -> Finding:
    """Judge free disk space; ``image_present`` is None where that is not known."""
    evidence = f"df -Pk {facts.disk_path or '?'}: {facts.disk_free} bytes free"
    if not facts.disk_path:
        return unknown("the host did not say how much disk is free", evidence)
    room = gib(facts.disk_free)
    if facts.disk_free < RUN_ROOM:
        return fail(f"only {room} free at {facts.disk_path}", evidence, _disk_fix(facts, runtime))
    if runtime == "docker" and image_present is not True and facts.disk_free < IMAGE_ROOM:
        return warn(
            f"{room} free at {facts.disk_path}; an image with CUDA takes about {gib(IMAGE_ROOM)}",
            evidence,
            _disk_fix(facts, runtime),
        )
    return ok(f"{room} free", evidence)


def _disk_fix(facts: Facts, runtime: str) -> Fix:
    commands = (f"df -h {facts.disk_path}", *(("docker system df",) if runtime == "docker" else ()))
    return Fix(
        "see what fills it and remove what you do not need; `docker image prune` removes images nothing uses",
        commands,
        host=facts.host,
    )


async def _disk(context: CheckContext, name: str) -> Finding:
    facts = await context.facts(name)
    present: bool | None = None
    if context.host(name).runtime == "docker":
        try:
            present = await context.image(name) is not None
        except EngineError:
            present = None  # its own check says so; here it only means that room for the image is wanted
    return disk_finding(facts, context.host(name).runtime, present)


def memory_finding(facts: Facts, info: Mapping[str, Any] | None) -> Finding:
    """Judge free memory; ``info`` is the engine's, whose virtual machine may own less than the host."""
    evidence = f"MemTotal {facts.memory_total} bytes, MemAvailable {facts.memory_available} bytes"
    if not facts.memory_total:
        return unknown("the host did not say how much memory it has", evidence)
    engine_total = int((info or {}).get("MemTotal") or 0)
    if engine_total and engine_total < facts.memory_total // 2:
        evidence += f"; docker info: MemTotal {engine_total} bytes"
        return warn(
            f"the engine's virtual machine has {gib(engine_total)} of the host's {gib(facts.memory_total)}",
            evidence,
            Fix("give it more: `memory=` in .wslconfig, or Settings → Resources in Docker Desktop", host=facts.host),
        )
    available = facts.memory_available or facts.memory_total
    say = f"{gib(available)} of {gib(facts.memory_total)} available"
    fix = Fix("end what uses it", ("ps aux --sort=-rss | head",), host=facts.host)
    if available < RANK_MEMORY:
        return fail(f"only {say}; a rank would be killed (exit 137)", evidence, fix)
    if available < COMFORTABLE_MEMORY:
        return warn(f"only {say}", evidence, fix)
    return ok(say, evidence)


async def _memory(context: CheckContext, name: str) -> Finding:
    info: Mapping[str, Any] | None = None
    if context.host(name).runtime == "docker":
        try:
            info = await context.engine_info(name)
        except EngineError:
            info = None  # its own check says so; the host's own figure still stands
    return memory_finding(await context.facts(name), info)


DISK = Check(
    id="disk",
    title="Disk space",
    codes=("PF-28",),
    severity=Severity.BLOCKS,
    scope="host",
    question=f"Is {gib(RUN_ROOM)} free for checkpoints and logs, and {gib(IMAGE_ROOM)} where the image is missing?",
    remedy="See `docker system df`; nothing is pruned for you.",
    probe=each_host(_disk),
    needs=("system",),
    after=("engine",),
    deadline=30.0,
)
MEMORY = Check(
    id="memory",
    title="Memory",
    codes=("PF-22",),
    severity=Severity.BLOCKS,
    scope="host",
    question=f"Is {gib(RANK_MEMORY)} of memory available, and does the engine's virtual machine own enough of it?",
    remedy="End other programs; raise the memory of WSL 2 or Docker Desktop.",
    probe=each_host(_memory),
    needs=("system",),
    after=("engine",),
    deadline=30.0,
)
CHECKS = (DISK, MEMORY)
