"""Ways to exchange gradients over links in namespaces: does overlap pay, and a reduction that spares a slow link?

``python -m benchmarks.trainer_exchange`` measures; with a rank, a world size and an address it is one process of it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import trainer_network
from benchmarks.report import Figure, Options, main, measured, skipped
from benchmarks.trainer_cluster import REPOSITORY, RunFailed
from benchmarks.trainer_network import Network
from trainer.options import Options as TrainerOptions
from trainer.workloads import build

PARAMETERS: Final = 620_000
BATCH: Final = 64
PORT: Final = 29_500
ONE_SLOW: Final = (1000.0, 1000.0, 30.0)
"""Mbit/s of three links: two cables and a bad Wi-Fi."""
HOME: Final = (100.0, 100.0)
SPARING: Final = ("star_one_slow_link", "bf16_one_slow_link", "without_slow_link")
OVERLAP: Final = "overlap_100mbit"


def figures(options: Options) -> Iterator[Figure]:
    """Measure each way against the exact ring, or the step without overlap, of the same processes."""
    reason = trainer_network.unavailable()
    rounds = 3 if options.quick else 12
    if reason:
        yield from (skipped(id_, reason, "x") for id_ in (*SPARING, OVERLAP) if options.wants(id_))
        return
    if options.wants(*SPARING):
        found = _measure("slow", ONE_SLOW, rounds)
        anchor = f"{1000 * found['ring']:.0f} ms for 2.5 MB in a ring, links of 1000, 1000 and 30 Mbit/s"
        for id_, way in zip(SPARING, ("star", "bf16", "without"), strict=True):
            yield measured(id_, found["ring"] / found[way], "x", anchor=anchor)
    if options.wants(OVERLAP):
        found = _measure("overlap", HOME, rounds)
        anchor = f"{1000 * found['one']:.0f} ms a step with one bucket after the backward pass, {BATCH} samples a rank"
        note = f"computing alone {1000 * found['compute']:.0f} ms"
        yield measured(OVERLAP, found["one"] / found["many"], "x", anchor=anchor, note=note)


def _measure(what: str, megabits: Sequence[float], rounds: int) -> dict[str, float]:
    with Network(len(megabits), megabits) as network:
        processes = [
            subprocess.Popen(
                [*network.command(rank), sys.executable, "-m", "benchmarks.trainer_exchange",
                 what, str(rank), str(len(megabits)), network.address(0), str(rounds)],
                env=os.environ | {"GLOO_SOCKET_IFNAME": network.interface, "OMP_NUM_THREADS": "1",
                                  "PYTHONPATH": str(REPOSITORY)},
                stdout=subprocess.PIPE, text=True,
            )
            for rank in range(len(megabits))
        ]  # fmt: skip
        try:
            answers = [process.communicate(timeout=300)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if any(process.returncode for process in processes):
        raise RunFailed(f"a process of the exchange benchmark ended badly ({what})")
    told: dict[str, float] = json.loads(answers[0])
    return told


def work(what: str, rank: int, world_size: int, address: str, rounds: int) -> None:
    """Be one process; the first one prints seconds by way, as JSON."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{address}:{PORT}", rank=rank, world_size=world_size, timeout=timedelta(seconds=120)
    )
    ways = _sparing(rank) if what == "slow" else _overlapping(rank)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            dist.barrier()
            began = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - began)
    dist.barrier()
    if rank == 0:
        print(json.dumps({name: statistics.median(each[1:]) for name, each in found.items()}), flush=True)


def _sparing(rank: int) -> dict[str, Callable[[], object]]:
    whole, half = torch.ones(PARAMETERS), torch.ones(PARAMETERS, dtype=torch.bfloat16)
    fast = dist.new_group([0, 1])

    def star() -> None:
        dist.reduce(whole, 0)
        dist.broadcast(whole, 0)

    def without() -> None:
        if rank < 2:
            dist.all_reduce(whole, group=fast)

    return {
        "ring": lambda: dist.all_reduce(whole),
        "star": star,
        "bf16": lambda: dist.all_reduce(half),
        "without": without,
    }


class _Loss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        workload = build(TrainerOptions(samples=BATCH))
        self.model = workload.model
        keys = torch.arange(BATCH)
        self._batch = workload.source.batch(keys, keys)
        self._workload = workload

    def forward(self) -> torch.Tensor:
        return self._workload.loss(self._batch)[0]


def _overlapping(rank: int) -> dict[str, Callable[[], object]]:
    """Let DistributedDataParallel reduce small buckets during the backward pass, or one after it."""
    del rank
    many = DistributedDataParallel(_Loss(), bucket_cap_mb=0.5)
    one = DistributedDataParallel(_Loss(), bucket_cap_mb=0.5)
    flat = torch.ones(PARAMETERS)

    def compute() -> None:
        with one.no_sync():
            torch.autograd.backward(one())

    def after() -> None:
        compute()
        dist.all_reduce(flat)

    return {"compute": compute, "many": lambda: torch.autograd.backward(many()), "one": after}


if __name__ == "__main__":
    if len(sys.argv) > 5 and sys.argv[1] in ("slow", "overlap"):
        work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        sys.exit(main("trainer_exchange", figures))
