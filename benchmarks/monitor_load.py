"""The log stream of a run that is not there: event lines as ranks write them, at a steady rate, on standard output.

``python -m benchmarks.monitor_load steps RANKS STEPS_A_SECOND`` writes one `Step` event for each rank and step;
``... nothing RANKS`` only brings the ranks up. Every line has the host in front, separated by a tab.
``... lines RANKS LINES_A_SECOND`` writes ordinary output, such as NCCL's with ``NCCL_DEBUG=INFO``, as the agent of the
one host relays it: this is the host's own log, without anything in front.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from trainer.events import Emitter, Hello, Joined, Shares, Step

BATCHES_A_SECOND: Final = 20
SHARE: Final = 16
HOST: Final = "node000"
"""Where the ranks of a flood are."""


def host_of(rank: int) -> str:
    """Return the name of the host that holds a rank, eight ranks each."""
    return f"node{rank // 8:03}"


class Ranks:
    """Writes what ranks write."""

    def __init__(self, count: int, write: Callable[[str], object], *, tagged: bool = True) -> None:
        self.count = count
        self._is_tagged = tagged
        self._random = random.Random(1)
        self._emitters = [Emitter(rank, self._tagged(rank, write)) for rank in range(count)]
        self._speeds = [self._random.uniform(80, 240) for _ in range(count)]

    def _tagged(self, rank: int, write: Callable[[str], object]) -> Callable[[str], object]:
        prefix = f"{host_of(rank)}\t" if self._is_tagged else ""
        return lambda line: write(prefix + line)

    def begin(self) -> None:
        """Bring all of them up."""
        for rank, emitter in enumerate(self._emitters):
            emitter.emit(
                Hello,
                host=host_of(rank),
                world_size=self.count,
                device="cuda:0",
                device_name="benchmark",
                process_id=rank,
            )
            emitter.emit(Joined, world_size=self.count)
        shares = (SHARE,) * self.count
        self._emitters[0].emit(Shares, shares=shares, policy="dynamic", reason="the benchmark's shares")

    def step(self, number: int, duration: float) -> None:
        """Let every rank tell one step that took ``duration`` seconds."""
        slowest = min(self._speeds)
        for rank, emitter in enumerate(self._emitters):
            compute = 0.8 * duration * slowest / self._speeds[rank] * self._random.uniform(0.95, 1.05)
            emitter.emit(
                Step,
                step=number,
                epoch=number // 1000,
                steps_total=1_000_000,
                share=SHARE,
                global_batch=SHARE * self.count,
                loss=2.3 * math.exp(-number / 900) + self._random.uniform(0.3, 0.36),
                learning_rate=0.05,
                compute=compute,
                data=0.02 * duration,
                wait=max(0.0, 0.85 * duration - compute),
                communication=0.1 * duration,
                duration=duration,
            )


def relayed_lines(ranks: int) -> Iterator[str]:
    """Yield event lines of ordinary output of one host without end, as fast as they can be made."""
    for number in itertools.count():
        rank = number % ranks
        peer = (rank + 1 + number // ranks % max(1, ranks - 1)) % ranks
        yield (
            f'{{"ht":1,"kind":"output","rank":-1,"seq":{number},"time":{time.time():.3f},"stream":"stdout","text":"'
            f"{HOST}:{4100 + rank}:{4180 + rank} [{rank}] NCCL INFO Channel {number // 64 % 32:02}/{number % 8} : "
            f'{rank}[{rank}] -> {peer}[{peer}] via SHM/direct/direct {number:x}","source_rank":{rank}}}\n'
        )


def _paced(rate: float, write: Callable[[int], object]) -> None:
    """Call ``write`` with how many are due, so that ``rate`` a second come on average."""
    started = time.perf_counter()
    done = 0
    while True:
        due = int((time.perf_counter() - started) * rate) - done
        # What a reader that is too slow did not take is not made up for.
        due = min(due, max(1, int(2 * rate / BATCHES_A_SECOND)))
        if due:
            write(due)
            done = max(done + due, int((time.perf_counter() - started) * rate) - int(rate))
        time.sleep(1 / BATCHES_A_SECOND if rate > BATCHES_A_SECOND else 0.5 / max(rate, 1))


def main() -> None:
    """Write until the reader goes away."""
    kind, count = sys.argv[1], int(sys.argv[2])
    out = sys.stdout
    ranks = Ranks(count, out.write, tagged=kind != "lines")
    ranks.begin()
    for number in range(12):
        ranks.step(number, 0.1)
    out.flush()
    if kind == "nothing":
        reader = os.getppid()
        while os.getppid() == reader:
            time.sleep(1)
        return
    rate = float(sys.argv[3])
    if kind == "steps":
        numbers = itertools.count(12)

        def steps(due: int) -> None:
            for _ in range(due):
                ranks.step(next(numbers), 1 / rate)
            out.flush()

        _paced(rate, steps)
        return
    lines = relayed_lines(count)

    def output(due: int) -> None:
        out.write("".join(itertools.islice(lines, due)))
        out.flush()

    _paced(rate, output)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()  # the reader is gone; so is the reason to complain
