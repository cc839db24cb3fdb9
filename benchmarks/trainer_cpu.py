"""What the allocator settings and measured micro-batches are worth on a CPU rank.

``python -m benchmarks.trainer_cpu naive|tuned`` is one process: it reads global batches from standard input, one a
line, computes that many samples, and answers with samples per second of processor time (page faults included), which
other work on the machine changes little.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from statistics import median

import torch

from benchmarks.trainer_cluster import REPOSITORY
from trainer.learner import Learner
from trainer.options import Options
from trainer.plan import TimeTable
from trainer.speed import calibrate, sizes
from trainer.workloads import build

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}


def speedups(batches: list[int], rounds: int) -> dict[int, float]:
    """Return tuned over naive speed for each batch: medians over rounds in which both take turns."""
    workers = {name: _Worker(name) for name in ("naive", "tuned")}
    try:
        for batch in batches:
            for worker in workers.values():
                worker.measure(batch)
        found = {
            batch: [workers["tuned"].measure(batch) / workers["naive"].measure(batch) for _ in range(rounds)]
            for batch in batches
        }
    finally:
        for worker in workers.values():
            worker.close()
    return {batch: median(ratios) for batch, ratios in found.items()}


class _Worker:
    def __init__(self, name: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | (SETTINGS if name == "tuned" else {})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.trainer_cpu", name],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def measure(self, batch: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{batch}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def work(tuned: bool) -> None:
    """Be one process."""
    torch.set_num_threads(1)
    options = Options(samples=2048)
    learner = Learner(build(options), options, device="cpu", world_size=1, simulated_samples_per_second=math.inf)
    table = None
    if tuned:
        calibration = calibrate(learner.probe, sizes(0, 1024, "cpu"), device="cpu")
        table = TimeTable.measured(calibration.table)
    for line in sys.stdin:
        batch = int(line)
        micro_batch = table.micro_batch(batch) if table else batch
        indices = torch.arange(batch)
        began = time.process_time()
        learner.flat.zero()
        learner.compute(indices, 0, micro_batch, float(batch), lambda: False)
        print(batch / (time.process_time() - began), flush=True)


if __name__ == "__main__":
    work(sys.argv[1] == "tuned")
