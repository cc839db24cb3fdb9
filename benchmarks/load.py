"""A day of 1 024 ranks on 256 hosts in minutes: what the master's memory does while events come without end.

    python -m benchmarks.load [--hosts 256] [--ranks 1024] [--hours 24]

The events are made up and as many as real ranks would send: one step each ten seconds, hardware every minute. They take
the way real ones take from the log stream on: ingest, store, recording, views. Memory is read every simulated hour.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from pathlib import Path

import psutil

from hetero_tui.ingest import Ingest
from hetero_tui.store import Store
from remote.run_dir import RunDir
from remote.runtime import LogLine
from trainer.events import Hardware, Hello, Step, encode

STEP_SECONDS = 10.0
HARDWARE_STEPS = 6
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
            lambda rank, seq: encode(
                Hello(rank=rank, seq=seq, time=self.now, host=self.host_of(rank), world_size=self._ranks)
            )
        )

    def next_step(self) -> dict[str, list[LogLine]]:
        """Return what each host says of the next step."""
        self.now += STEP_SECONDS
        self.step += 1

        def step(rank: int, seq: int) -> str:
            return encode(
                Step(
                    rank=rank, seq=seq, time=self.now, step=self.step, steps_total=10**7, epoch=0, share=4,
                    global_batch=4 * self._ranks, compute=6.0 + rank % 7 * 0.1, duration=STEP_SECONDS,
                    loss=2.0 / (1 + self.step / 1000),
                )
            )  # fmt: skip

        lines = self._by_host(step)
        if self.step % HARDWARE_STEPS == 0:
            more = self._by_host(lambda rank, seq: encode(Hardware(rank=rank, seq=seq, time=self.now)))
            lines = {name: [*lines[name], *more[name]] for name in lines}
        return lines

    def _by_host(self, make: object) -> dict[str, list[LogLine]]:
        assert callable(make)
        lines: dict[str, list[LogLine]] = {name: [] for name in self.names}
        for rank in range(self._ranks):
            text = str(make(rank, self._seq[rank])).rstrip("\n")
            self._seq[rank] += 1
            lines[self.host_of(rank)].append(LogLine(text, str(self._seq[rank])))
        return lines


async def simulate(hosts: int, ranks: int, hours: float, folder: Path | None) -> dict[str, object]:
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
    lines = 0

    async def take(by_host: dict[str, list[LogLine]]) -> int:
        for name, own in by_host.items():
            await ingest.feed(name, own)
        return sum(map(len, by_host.values()))

    began = time.perf_counter()
    lines += await take(cluster.hellos())
    for number in range(1, int(hours * STEPS_AN_HOUR) + 1):
        lines += await take(cluster.next_step())
        store.cluster_view()
        if number % STEPS_AN_HOUR == 0 or number == STEPS_AN_HOUR // 4:
            gc.collect()
            memory.append(process.memory_info().rss)
    seconds = time.perf_counter() - began
    if run is not None:
        run.close()
    half = memory[len(memory) // 2 :]
    return {
        "hosts": hosts,
        "ranks": ranks,
        "simulated_hours": hours,
        "lines": lines,
        "lines_per_second": round(lines / seconds),
        "lost_lines": store.lost_lines,
        "duplicate_lines": store.duplicate_lines,
        "memory_mb": [round(value / 1e6) for value in memory],
        "growth_in_second_half_mb": round((half[-1] - half[0]) / 1e6, 1) if half else 0.0,
    }


def main() -> None:
    """Run, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--hosts", type=int, default=256)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--record", action="store_true", help="write the recording too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hetero-load-") as folder:
        place = Path(folder) if chosen.record else None
        found = asyncio.run(simulate(chosen.hosts, chosen.ranks, chosen.hours, place))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
