"""A day of 1 024 ranks on 256 hosts in minutes, a run of ten million lines taken up again, a flood through Docker.

    python -m benchmarks.load [--quick] [--only load_ | --only reattach_ | --only logs_]

The events of the day are made up and as many as real ranks would send: one step each ten seconds, hardware every
minute, a line of output every five. They take the way real ones take from the log stream on: ingest, store, recording,
views. The run that is taken up again is real, and so is the flood: see ``benchmarks.load_reattach`` and
``benchmarks.load_logs``.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.load_logs import LOGS_IDS, logs_figures
from benchmarks.load_reattach import REATTACH_IDS, reattach, reattach_figures
from benchmarks.report import Figure, Options, at_most, main, measured
from hetero_tui.ingest import Ingest
from hetero_tui.run_log import LOG_LINES
from hetero_tui.store import Store
from remote.run_dir import RunDir
from remote.runtime import LogLine
from trainer.events import Hardware, Hello, Output, Shares, Step, encode

GROWTH_MB: Final = 20.0
"""What the second half of the day may add to the memory: less than a leak of two bytes a line would."""
LOAD_IDS: Final = (
    "load_lost_or_doubled", "load_growth_mb", "load_most_held", "load_seconds", "load_lines_per_second",
    "load_recording_mb",
)  # fmt: skip
STEP_SECONDS = 10.0
HARDWARE_STEPS = 6
OUTPUT_STEPS = 30
FIRST_OF_RANK_0: Final = '"rank":0,"seq":0,'
STEPS_AN_HOUR = int(3600 / STEP_SECONDS)


class Simulated:
    """A cluster whose ranks do nothing but tell of it."""

    def __init__(self, hosts: int, ranks: int) -> None:
        self.names = [f"host{number:03}" for number in range(hosts)]
        self._ranks = ranks
        self._seq = [0] * ranks
        self.now = 1_800_000_000.0
        self.step = 0

    def host_of(self, rank: int) -> str:
        """Return where a rank lives."""
        return self.names[rank * len(self.names) // self._ranks]

    def hellos(self) -> dict[str, list[LogLine]]:
        """Return each host's first lines."""
        return self._by_host(
            [encode(Hello(rank=0, seq=0, time=self.now, host=name, world_size=self._ranks)) for name in self.names],
            lambda rank: rank * len(self.names) // self._ranks,
        )

    def next_step(self) -> dict[str, list[LogLine]]:
        """Return what each host says of the next step."""
        self.now += STEP_SECONDS
        self.step += 1
        steps = [
            Step(
                rank=0, seq=0, time=self.now, step=self.step, steps_total=10**7, epoch=0, share=4,
                global_batch=4 * self._ranks, compute=6.0 + number * 0.1, duration=STEP_SECONDS,
                loss=2.0 / (1 + self.step / 1000),
            )
            for number in range(7)
        ]  # fmt: skip
        lines = self._by_host([encode(step) for step in steps], lambda rank: rank % 7)
        if self.step % HARDWARE_STEPS == 0:
            self._add(lines, [encode(Hardware(rank=0, seq=0, time=self.now))], lambda _: 0)
        if self.step % OUTPUT_STEPS == 0:
            shares = Shares(rank=0, seq=0, time=self.now, step=self.step, shares=(4,) * self._ranks)
            self._add(
                lines,
                [encode(shares), encode(Output(rank=0, seq=0, time=self.now, text=f"step {self.step}"))],
                lambda rank: rank > 0,
            )
        return lines

    def _add(self, lines: dict[str, list[LogLine]], texts: list[str], choose: Callable[[int], int]) -> None:
        for name, more in self._by_host(texts, choose).items():
            lines[name] += more

    def _by_host(self, texts: list[str], choose: Callable[[int], int]) -> dict[str, list[LogLine]]:
        """Let every rank say one of the texts, written for rank 0: to encode each anew would be most of the work."""
        parts = [text.rstrip().partition(FIRST_OF_RANK_0)[::2] for text in texts]
        lines: dict[str, list[LogLine]] = {name: [] for name in self.names}
        for rank in range(self._ranks):
            before, after = parts[choose(rank)]
            text = f'{before}"rank":{rank},"seq":{self._seq[rank]},{after}'
            self._seq[rank] += 1
            lines[self.host_of(rank)].append(LogLine(text, str(self._seq[rank])))
        return lines


@dataclass(frozen=True, slots=True)
class Day:
    """What the simulated time did to the master."""

    lines: int
    seconds: float
    lost: int
    duplicates: int
    memory: tuple[int, ...]
    """Resident bytes after each quarter of the lines."""
    marks: Mapping[str, int]
    """Most entries that each window of the store held at any time."""
    recording: int
    """Bytes of the recording; 0 without one."""

    @property
    def growth(self) -> float:
        """MB between the half and the end."""
        return (self.memory[3] - self.memory[1]) / 1e6


async def simulate(hosts: int, ranks: int, hours: float, folder: Path | None) -> Day:
    """Play the day and return what memory did.

    Args:
        hosts: how many.
        ranks: of all hosts together.
        hours: simulated.
        folder: where the run is recorded; None records nothing.
    """
    cluster = Simulated(hosts, ranks)
    store = Store(clock=lambda: cluster.now, wall_clock=lambda: cluster.now)
    run = RunDir.create(folder, "load", "20260101-000000-abcd") if folder is not None else None
    ingest = Ingest(store, keep=run.append if run else None)
    process = psutil.Process()
    memory: list[int] = []
    marks: dict[str, int] = {}
    lines = 0

    async def take(by_host: dict[str, list[LogLine]]) -> int:
        for name, own in by_host.items():
            await ingest.feed(name, own)
        for name, count in held(store).items():
            marks[name] = max(marks.get(name, 0), count)
        return sum(map(len, by_host.values()))

    began = time.perf_counter()
    lines += await take(cluster.hellos())
    steps = int(hours * STEPS_AN_HOUR)
    for number in range(1, steps + 1):
        lines += await take(cluster.next_step())
        store.cluster_view()
        if number * 4 // steps > len(memory):
            gc.collect()
            memory.append(process.memory_info().rss)
    seconds = time.perf_counter() - began
    if run is not None:
        run.close()
    size = run.events_path.stat().st_size if run is not None else 0
    return Day(lines, seconds, store.lost_lines, store.duplicate_lines, tuple(memory), marks, size)


def held(store: Store) -> dict[str, int]:
    """Return how many entries each window holds that events go into."""
    return {"log": len(store.log), "events": len(store.events), "shares": len(store.shares_history)}


def figures(options: Options) -> Iterator[Figure]:
    """Yield what a day does; with ``--quick`` 64 ranks for an hour."""
    hosts, ranks, hours = (16, 64, 1.0) if options.quick else (256, 1024, 24.0)
    if options.wants(*LOAD_IDS):
        with tempfile.TemporaryDirectory(prefix="hetero-load-") as folder:
            day = asyncio.run(simulate(hosts, ranks, hours, Path(folder)))
        yield from day_figures(day, f"{hosts} hosts, {ranks} ranks, {hours:g} simulated hours, recorded")
    if options.wants(*REATTACH_IDS):
        lines = 50_000 if options.quick else 10_000_000
        with tempfile.TemporaryDirectory(prefix="hetero-load-") as folder:
            found = asyncio.run(reattach(lines, Path(folder)))
        yield from reattach_figures(found)
    if options.wants(*LOGS_IDS):
        yield from logs_figures(50_000 if options.quick else 1_000_000)


def day_figures(day: Day, what: str) -> Iterator[Figure]:
    """Yield the figures of a simulated day."""
    quarters = ", ".join(f"{value / 1e6:.0f}" for value in day.memory)
    windows = ", ".join(f"{name} {count}" for name, count in day.marks.items())
    yield at_most("load_lost_or_doubled", day.lost + day.duplicates, 0, "lines", anchor=f"{day.lines} lines; {what}")
    yield at_most(
        "load_growth_mb", day.growth, GROWTH_MB, "MB", anchor=f"MB after each quarter: {quarters}", note="second half"
    )
    yield at_most("load_most_held", max(day.marks.values()), LOG_LINES, "entries", anchor=f"most held: {windows}")
    yield measured("load_seconds", day.seconds, "s", anchor=what)
    yield measured("load_lines_per_second", day.lines / day.seconds, "lines/s", anchor="one process, recording too")
    yield measured("load_recording_mb", day.recording / 1e6, "MB", anchor=f"{day.lines} lines, compressed")


if __name__ == "__main__":
    sys.exit(main("load", figures))
