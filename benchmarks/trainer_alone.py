"""The ideal: what each rank does alone, in a plain PyTorch loop, with the micro-batch that suits it best.

The sum of these speeds is what a cluster can reach at most. A rank measured alone with a micro-batch that a noisy
calibration chose makes the ideal too low: pieces of 8 or 16 samples reach 0.6 to 0.8 of the speed of 256, and a
cluster may then seem quicker than the sum of its parts.

``python -m benchmarks.trainer_alone SHARE`` is one rank. It prints its process id; for every "micro-batch seconds" on
standard input it trains that long and prints its samples per second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import torch

from benchmarks.trainer_asked import Asked
from benchmarks.trainer_quota import CpuQuota
from trainer.data import sample_keys
from trainer.options import Options
from trainer.workloads import build

MICRO_BATCHES: Final = (32, 64, 128, 256, 1024)
"""Tried for each rank; the last is the whole share in one piece."""
TRIAL_SECONDS: Final = 3.0
FEWEST_STEPS: Final = 2


class AloneRun:
    """One rank in each quota, each training for itself with its share of the batch. A context manager."""

    def __init__(self, quotas: Sequence[CpuQuota], shares: Sequence[int], trial_seconds: float = TRIAL_SECONDS) -> None:
        """Start the ranks and find the best micro-batch of each; then they stand still until :meth:`measure`.

        Args:
            quotas: What each rank is held down to.
            shares: Samples of each rank's steps: what it has in the cluster it is compared with.
            trial_seconds: How long each micro-batch is tried.

        Raises:
            RunFailed: a rank ended badly.
        """
        self._asked = Asked("benchmarks.trainer_alone", [[str(share)] for share in shares], quotas)
        trials = {size: self._speeds([size] * len(shares), trial_seconds) for size in MICRO_BATCHES}
        self.micro_batches = [
            max(trials, key=lambda size, rank=rank: trials[size][rank])  # type: ignore[misc]  # bound now
            for rank in range(len(shares))
        ]
        """The best micro-batch of each rank."""

    def measure(self, seconds: float) -> list[float]:
        """Return samples per second of each rank alone, all at the same time, with its best micro-batch.

        Raises:
            RunFailed: a rank ended badly.
        """
        return self._speeds(self.micro_batches, seconds)

    def _speeds(self, micro_batches: Sequence[int], seconds: float) -> list[float]:
        return [float(speed) for speed in self._asked.ask([f"{size} {seconds}" for size in micro_batches])]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.__exit__(kind, error, trace)


def train(share: int) -> None:
    """Be one rank, until standard input ends. The first step of every answer warms up and is not counted."""
    torch.set_num_threads(1)
    workload = build(Options(samples=4096))
    optimizer = torch.optim.SGD(workload.model.parameters(), lr=0.05, momentum=0.9)
    print(os.getpid(), flush=True)
    step = 0

    def do_step(micro_batch: int) -> None:
        indices = (torch.arange(share) + step * share) % workload.source.size
        optimizer.zero_grad(set_to_none=False)
        for piece in torch.split(indices, micro_batch):
            batch = workload.source.batch(piece, sample_keys(piece, 0, step))
            torch.autograd.backward(workload.loss(batch)[0] / share)
        optimizer.step()

    for line in sys.stdin:
        micro_batch, seconds = line.split()
        do_step(int(micro_batch))
        began, done = time.perf_counter(), 0
        while done < FEWEST_STEPS or time.perf_counter() - began < float(seconds):
            step, done = step + 1, done + 1
            do_step(int(micro_batch))
        print(json.dumps(done * share / (time.perf_counter() - began)), flush=True)


if __name__ == "__main__":
    train(int(sys.argv[1]))
