"""A run of millions of lines whose link breaks and whose master is killed: everything once, and memory stays flat.

The run is real: a process on an embedded SSH host writes events as fast as it can, and a master in a process of its own
follows it over SSH with the program's runtime, stream, store and recording. The link is cut again and again. After half
of the lines the master gets SIGKILL; another one plays the recording back, goes on behind its last line, and follows to
the end. What is checked in the end is the recording: each line's own number, in order, once.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.report import Figure, at_most, measured
from hetero_tui.recording import recorded_store, take_up
from remote.embedded import EmbeddedHost, RunningHost, embedded_hosts
from remote.inventory import Host
from remote.known_hosts import KnownHosts
from remote.plan import HostPlan, RankPlan
from remote.plan_contract import LABEL_CLUSTER
from remote.process_runtime import ProcessRuntime
from remote.run_dir import RunDir
from remote.ssh import SshRunner, connect
from remote.stream import Backoff, LinkChange, follow
from trainer.events import Step, encode

RUN: Final = "20260101-000000-abcd"
CLUSTER: Final = "load"
HOST: Final = "alpha"
PARTS: Final = 8
"""The link is cut, and memory read, after each of so many parts of the lines."""
GROWTH_MB: Final = 20.0
"""What the last quarter of the lines, half a gigabyte of log at ten million, may add to the master's memory."""
PEAK_MB: Final = 150.0
TELL_LINES: Final = 1_000
REATTACH_IDS: Final = (
    "reattach_lost_or_doubled", "reattach_growth_mb", "reattach_peak_mb", "reattach_rebuild_s", "reattach_seconds",
    "reattach_follow_us", "reattach_rebuild_us",
)  # fmt: skip
_NUMBER: Final = re.compile(r'"seq":(\d+),')
_WRITER: Final = """
import sys
count, text = int(sys.argv[1]), sys.argv[2]
def line(n):
    return text.replace("@", str(n)).replace("#", f"{1800000000 + n // 20}.{n % 20 * 5:02}")
for begin in range(0, count, 1000):
    numbers = range(begin, min(begin + 1000, count))
    sys.stdout.write("".join(line(number) for number in numbers))
"""


@dataclass(slots=True)
class Taken:
    """What became of the run's lines."""

    lines: int
    stored: int = 0
    lost_or_doubled: int = 0
    """Lines of the recording that do not have the number after the one before, and those missing at its end."""
    broken: int = 0
    """What the second master's store says of it: lost, doubled and unreadable events."""
    logins: int = 0
    rebuild_seconds: float = 0.0
    """From the second master's first look at the recording until it asks the host for more."""
    seconds: float = 0.0
    rebuild_processor_seconds: float = 0.0
    processor_seconds: float = 0.0
    """Of both masters for all lines that came from the host; the rebuilding is left out."""
    memory: list[int] = field(default_factory=list)
    """Resident bytes of the master after each part of the lines."""
    recording: int = 0

    @property
    def growth(self) -> float:
        """MB that the last quarter added; the master is the second one all that time."""
        return (self.memory[-1] - self.memory[PARTS * 3 // 4 - 1]) / 1e6


async def reattach(lines: int, folder: Path) -> Taken:
    """Let a run write that many lines, follow it through cuts and the death of its master, and check what was kept.

    Args:
        lines: how many the run writes.
        folder: where the host lives and the recording goes; needs about 250 bytes a line.
    """
    taken = Taken(lines)
    began = time.perf_counter()
    async with embedded_hosts([EmbeddedHost(HOST)], folder=folder) as cluster:
        host = cluster[HOST]
        runner = await connect(host.inventory_host(), known_hosts=KnownHosts())
        runtime = ProcessRuntime(HOST, runner, sys.executable)
        await runtime.create(_plan(lines), RUN)
        try:
            await runtime.start(RUN)
            RunDir.create(folder / "experiments", CLUSTER, RUN).close()
            await _master(host, folder, taken, range(1, PARTS // 2 + 1), is_killed=True)
            await _master(host, folder, taken, range(PARTS // 2 + 1, PARTS + 1), is_killed=False)
        finally:
            # The first connection was cut with all others.
            await runner.close()
            runner = await connect(host.inventory_host(), known_hosts=KnownHosts())
            await ProcessRuntime(HOST, runner, sys.executable).stop(RUN, grace=1.0)
            await runner.close()
        taken.logins = host.login_count
    _check(folder, taken)
    taken.seconds = time.perf_counter() - began
    return taken


async def _master(host: RunningHost, folder: Path, taken: Taken, parts: range, *, is_killed: bool) -> None:
    """Let one master follow; cut its link after each part, and kill it at the last one or wait until it ends."""
    entry = host.inventory_host().model_dump_json()
    argv = [sys.executable, "-m", "benchmarks.load_reattach", str(folder), entry]
    # Never more text than a pipe holds: the master writes a few lines only.
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    watched = psutil.Process(process.pid)
    remaining = list(parts)
    begun_with = spent = 0.0
    try:
        async for raw in process.stdout:
            said = json.loads(raw)
            taken.rebuild_seconds = said.get("rebuilt", taken.rebuild_seconds)
            taken.broken = said.get("broken", taken.broken)
            begun_with = said.get("begins", begun_with)
            taken.rebuild_processor_seconds += said.get("rebuild_processor", 0.0)
            spent = said.get("spent", spent)
            while remaining and said.get("count", 0) * PARTS >= remaining[0] * taken.lines:
                remaining.pop(0)
                taken.memory.append(watched.memory_info().rss)
                host.drop_connections()
            if is_killed and not remaining:
                return
        if await process.wait() != 0 or remaining:
            raise RuntimeError(f"the master ended with {process.returncode} before the run did")
    finally:
        taken.processor_seconds += spent - begun_with
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _check(folder: Path, taken: Taken) -> None:
    run = RunDir.open(folder / "experiments", CLUSTER, RUN)
    expected = 0
    for line in run.lines():
        match = _NUMBER.search(line.text)
        number = int(match[1]) if match else -1
        taken.lost_or_doubled += number != expected
        expected = number + 1
        taken.stored += 1
    taken.lost_or_doubled += abs(taken.lines - expected)
    taken.recording = run.events_path.stat().st_size


def _plan(lines: int) -> HostPlan:
    step = Step(
        rank=0, seq=0, time=1.8e9, step=1, steps_total=10**8, share=64, global_batch=64, compute=0.1, duration=0.05,
        loss=0.5, learning_rate=0.01,
    )  # fmt: skip
    text = encode(step)
    for known, varied in (('"seq":0,', '"seq":@,'), ('"step":1,', '"step":@,'), ("1800000000.0", "#")):
        text = text.replace(known, varied)
    return HostPlan(
        host=HOST,
        runtime="process",
        ranks=(RankPlan(0, 0, "cpu"),),
        container_name="",
        image="",
        argv=(sys.executable, "-c", _WRITER, str(lines), f"{text}\n"),
        env=(),
        labels=((LABEL_CLUSTER, CLUSTER),),
    )


async def _follow(folder: Path, host: Host) -> None:
    """Be a master: take up what was recorded, follow to the end, and tell how far it is."""
    run = RunDir.open(folder / "experiments", CLUSTER, RUN)
    store, ingest = recorded_store(run)
    count = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count
        for record in run.documents():
            count += record.get("count", "line" in record)
            yield record

    began, worked = time.perf_counter(), time.process_time()
    await take_up(store, ingest, counted())
    position = run.positions().get(HOST, "")
    if position:
        _tell(rebuilt=time.perf_counter() - began, rebuild_processor=time.process_time() - worked)
    _tell(begins=time.process_time())

    runners: list[SshRunner] = []

    async def runtime() -> ProcessRuntime:
        runners.append(await connect(host, known_hosts=KnownHosts()))
        return ProcessRuntime(HOST, runners[-1], sys.executable)

    def change(_change: LinkChange, _why: str) -> None: ...

    told = 0
    following = follow(RUN, runtime, after=position, report=change, backoff=Backoff(first=0.1, longest=1.0))
    async with aclosing(following) as batches:
        async for lines in batches:
            await ingest.feed(HOST, lines)
            count += len(lines)
            if count - told >= TELL_LINES:
                _tell(count=count, spent=time.process_time())
                told = count
    _tell(count=count, spent=time.process_time(), broken=store.lost_lines + store.duplicate_lines + store.broken_events)
    for runner in runners:
        await runner.close()
    run.close()


def _tell(**values: float) -> None:
    print(json.dumps(values), flush=True)


def reattach_figures(taken: Taken) -> Iterator[Figure]:
    """Yield the figures of a run that was taken up again."""
    what = f"{taken.lines} lines, {taken.logins} logins, one SIGKILL"
    parts = ", ".join(f"{value / 1e6:.0f}" for value in taken.memory)
    wrong = taken.lost_or_doubled + abs(taken.lines - taken.stored) + taken.broken
    yield at_most("reattach_lost_or_doubled", wrong, 0, "lines", anchor=what)
    yield at_most("reattach_growth_mb", taken.growth, GROWTH_MB, "MB", anchor=f"MB after each eighth: {parts}")
    yield at_most("reattach_peak_mb", max(taken.memory) / 1e6, PEAK_MB, "MB", anchor="resident, both masters")
    yield measured("reattach_rebuild_s", taken.rebuild_seconds, "s", anchor="half of the lines, from the recording")
    per_line = 1e6 / taken.lines
    yield measured(
        "reattach_follow_us", taken.processor_seconds * per_line, "µs", anchor="processor time a line, from the host"
    )
    yield measured(
        "reattach_rebuild_us",
        taken.rebuild_processor_seconds * 2 * per_line,
        "µs",
        anchor="processor time a line, from the recording",
    )
    yield measured(
        "reattach_seconds", taken.seconds, "s", anchor=f"all of it; recording {taken.recording / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    asyncio.run(_follow(Path(sys.argv[1]), Host.model_validate_json(sys.argv[2])))
