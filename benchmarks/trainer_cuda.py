"""One CUDA rank with CPU ranks beside it against the CUDA rank alone: what unlike devices bring to one job."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from benchmarks.report import Figure, Options, main, measured, skipped
from benchmarks.trainer_cluster import Cluster, throughput

ID: Final = "cuda_and_cpus_vs_cuda"
CPU_RANKS: Final = 2
WARM_UP: Final = 30
STEPS: Final = 60
GLOBAL_BATCH: Final = 1024


def figures(options: Options) -> Iterator[Figure]:
    """Yield the ratio, or why there is none."""
    if not options.wants(ID):
        return
    if not torch.cuda.is_available():
        yield skipped(ID, "no CUDA device here", "x")
        return
    steps = STEPS // 3 if options.quick else STEPS
    alone = samples_per_second(("cuda:0",), steps)
    together = samples_per_second(("cuda:0", *["cpu"] * CPU_RANKS), steps)
    yield measured(ID, together / alone, "x", anchor=f"{alone:.0f} samples/s of the CUDA rank alone, over Gloo as well")


def samples_per_second(devices: Sequence[str], steps: int, warm_up: int = WARM_UP) -> float:
    """Return the throughput of one rank on each device, after shares have settled.

    Raises:
        RunFailed: the run did not come that far.
    """
    wanted = ["--workload", "simple_cnn", "--global-batch", str(GLOBAL_BATCH), "--policy", "dynamic"]
    endless = ["--samples", str(GLOBAL_BATCH * 100), "--epochs", "1000"]
    with tempfile.TemporaryDirectory(prefix="hetero-benchmark-") as folder, Cluster(Path(folder)) as run:
        run.start([1] * len(devices), [*wanted, *endless], devices=devices)
        run.wait_for_step(warm_up)
        return throughput(run.steps_in(run.run_steps(steps)))


if __name__ == "__main__":
    sys.exit(main("trainer_cuda", figures))
