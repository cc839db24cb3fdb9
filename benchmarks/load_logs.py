"""A flood of a million lines through a real Docker Engine's log API, and through the process runtime, over SSH.

The lines are as an agent relays them. They are written by a container, and by the same program beside it, on one host
of the tests' rig (root, sshd and dockerd on Debian), and read as a run's are. CPU is this process's own, for 100 000
lines: at that many a second, 100 % is one core. How many a second come depends on what sshd and dockerd, on the same
machine, can send. What the screen and the recording take beside it: ``python -m benchmarks.monitor --only cpu_flood``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.report import Figure, at_most, failed, measured, skipped
from hetero_tui.ingest import NUMBER
from remote.docker_logs import LineAssembler
from remote.errors import RemoteError
from remote.hosts import Hosts
from remote.inventory import parse_inventory
from remote.plan import HostPlan, RankPlan
from remote.plan_contract import LABEL_CLUSTER, LABEL_HOST, LABEL_RUN
from remote.process_runtime import ProcessRuntime
from remote.runtime import HostRuntime, LogLine, State, closing

RUN: Final = "20260101-000000-abcd"
LOGS_IDS: Final = (
    "logs_docker_cpu", "logs_process_cpu", "logs_docker_per_process", "logs_lost_or_doubled", "logs_assembler_us",
)  # fmt: skip
RATE: Final = 100_000
_PROGRAM: Final = """\
import sys
text = ('{"ht":1,"kind":"output","rank":-1,"seq":%d,"time":1800000000.125,"stream":"stdout","text":"h1:4100:4180 [0] '
        'NCCL INFO Channel 07/0 : 0[0] -> 1[1] via SHM/direct/direct %x","source_rank":0}\\n')
for begin in range(0, int(sys.argv[1]), 1000):
    sys.stdout.write("".join([text % (n, n) for n in range(begin, min(begin + 1000, int(sys.argv[1])))]))
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What it cost to take a log in."""

    lines: int
    misplaced: int
    seconds: float
    cpu: float
    """Processor seconds of this process."""

    @property
    def percent(self) -> float:
        """Of one core, at ``RATE`` lines a second."""
        return 100 * RATE * self.cpu / self.lines

    @property
    def note(self) -> str:
        """How quick it was here."""
        return f"{self.lines:,} lines, {self.lines / self.seconds:,.0f} lines/s came".replace(",", " ")


def logs_figures(lines: int) -> Iterator[Figure]:
    """Yield what a flood costs by either way."""
    yield _assembler(min(lines, 200_000))
    try:
        from tests.rig.hosts import Rig
        from tests.rig.image import prepare_image
        from tests.rig.places import RigError, cache_folder
    except ImportError as error:
        yield from (skipped(name, str(error)) for name in LOGS_IDS[:-1])
        return
    try:
        with Rig(hosts=1, image=prepare_image(cache_folder())) as rig:
            docker, process = asyncio.run(_measure(rig, lines))
    except (RigError, RemoteError, OSError) as error:
        yield from (skipped(name, str(error)) for name in LOGS_IDS[:-1])
        return
    yield at_most("logs_docker_cpu", docker.percent, 20, "%", anchor="at 100 000 lines/s", note=docker.note)
    yield measured("logs_process_cpu", process.percent, "%", anchor="the same lines", note=process.note)
    yield measured("logs_docker_per_process", docker.cpu / process.cpu, "x", anchor="CPU in the same run")
    for way, taken in (("docker", docker), ("process", process)):
        if taken.lines != lines or taken.misplaced:
            yield failed("logs_lost_or_doubled", f"{way}: {taken.lines} of {lines}, {taken.misplaced} out of order")
            return
    yield measured("logs_lost_or_doubled", 0, "lines", anchor=f"2 x {lines} lines, each in its place")


def _assembler(lines: int) -> Figure:
    """Measure what it takes to make lines of the engine's frames."""
    frames = [
        (1, f"2026-01-01T00:00:{n // 10**5:02}.{n * 10**4 % 10**9:09}Z line {n} of a flood, {'x' * 60}\n".encode())
        for n in range(lines)
    ]
    assembler = LineAssembler()
    began = time.process_time()
    count = sum(len(assembler.feed(frames[at : at + 500])) for at in range(0, lines, 500))
    spent = time.process_time() - began
    if count != lines:
        return failed("logs_assembler_us", f"{count} of {lines} lines")
    return measured("logs_assembler_us", 1e6 * spent / lines, "us", anchor="a line, in batches of 500")


async def _measure(rig: object, lines: int) -> tuple[Taken, Taken]:
    from tests.rig.clusters import cluster_toml
    from tests.rig.hosts import Rig

    assert isinstance(rig, Rig)
    labels = [f"--label={name}={value}" for name, value in ((LABEL_RUN, RUN), (LABEL_HOST, "h1"))]
    machine = rig.host("h1")
    machine.docker(
        "run", *labels, "--network=none", "--entrypoint=python3", "--detach", rig.image, "-c", _PROGRAM, str(lines)
    )
    machine.docker("wait", *machine.containers(), timeout=600.0)
    hosts = Hosts(parse_inventory(cluster_toml(rig), "cluster.toml"))
    try:
        docker = await _take(await hosts.runtime("h1"))
        beside = ProcessRuntime("h1", await hosts.connected("h1"), "python3")
        await beside.create(_processes(lines), RUN)
        await beside.start(RUN)
        await _until_written(beside)
        process = await _take(beside)
        await beside.stop(RUN)
    finally:
        await hosts.close()
    return docker, process


def _processes(lines: int) -> HostPlan:
    return HostPlan(
        host="h1",
        runtime="process",
        ranks=(RankPlan(0, 0, "cpu"),),
        container_name="",
        image="",
        argv=("python3", "-c", _PROGRAM, str(lines)),
        env=(),
        labels=((LABEL_CLUSTER, "load"),),
    )


async def _until_written(runtime: HostRuntime) -> None:
    """Wait for the program to end: what it takes to write the lines is not what is measured."""
    async with asyncio.timeout(300):
        while (await runtime.inspect(RUN)).state is not State.EXITED:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.5)


async def _take(runtime: HostRuntime) -> Taken:
    """Take the whole log as a run's is taken from its host, and look at the numbers of its lines."""
    count = misplaced = 0
    began, spent = time.perf_counter(), time.process_time()
    async with closing(runtime.logs(RUN, follow=False)) as batches:
        async for lines in batches:
            misplaced += _number(lines[0]) != count
            count += len(lines)
            misplaced += _number(lines[-1]) != count - 1
    return Taken(count, misplaced, time.perf_counter() - began, time.process_time() - spent)


def _number(line: LogLine) -> int:
    found = NUMBER.match(line.text)
    return int(found[1]) if found else -1
