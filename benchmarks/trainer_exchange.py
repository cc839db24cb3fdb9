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
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from benchmarks import trainer_network
from benchmarks.report import Figure, Options, main, measured, skipped
from benchmarks.trainer_cluster import REPOSITORY, RunFailed
from benchmarks.trainer_network import Network
from trainer.compression import PowerSgdReduction
from trainer.options import Options as TrainerOptions
from trainer.reduction import FlatModel
from trainer.workloads import build

PARAMETERS: Final = 620_000
BATCH: Final = 64
PORT: Final = 29_500
ONE_SLOW: Final = (1000.0, 1000.0, 30.0)
"""Mbit/s of three links: two cables and a bad Wi-Fi."""
HOME: Final = (100.0, 100.0)
SPARING: Final = ("star_one_slow_link", "bf16_one_slow_link", "without_slow_link")
OVERLAP: Final = "overlap_100mbit"
OVERLAP_BF16: Final = "overlap_bf16_100mbit"
POWERSGD: Final = "powersgd_against_bf16_100mbit"
OVERLAPS: Final = (OVERLAP, OVERLAP_BF16, POWERSGD)


def figures(options: Options) -> Iterator[Figure]:
    """Measure each way against the exact ring, or the step without overlap, of the same processes."""
    reason = trainer_network.unavailable()
    rounds = 3 if options.quick else 12
    if reason:
        yield from (skipped(id_, reason, "x") for id_ in (*SPARING, *OVERLAPS) if options.wants(id_))
        return
    if options.wants(*SPARING):
        found = _measure("slow", ONE_SLOW, rounds)
        anchor = f"{1000 * found['ring']:.0f} ms for 2.5 MB in a ring, links of 1000, 1000 and 30 Mbit/s"
        for id_, way in zip(SPARING, ("star", "bf16", "without"), strict=True):
            yield measured(id_, found["ring"] / found[way], "x", anchor=anchor)
    if options.wants(*OVERLAPS):
        found = _measure("overlap", HOME, rounds)
        anchor = f"{1000 * found['one']:.0f} ms a step with one bucket after the backward pass, {BATCH} samples a rank"
        note = f"computing alone {1000 * found['compute']:.0f} ms"
        yield measured(OVERLAP, found["one"] / found["many"], "x", anchor=anchor, note=note)
        anchor = f"{1000 * found['half_one']:.0f} ms a step with all gradients in bf16 after the backward pass"
        note = f"{note}; bf16 in buckets {1000 * found['half_many']:.0f} ms, PowerSGD {1000 * found['powersgd']:.0f} ms"
        yield measured(OVERLAP_BF16, found["half_one"] / found["half_many"], "x", anchor=anchor, note=note)
        yield measured(POWERSGD, found["half_one"] / found["powersgd"], "x", anchor=anchor, note=note)


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
    """Let DistributedDataParallel reduce small buckets during the backward pass, or one after it; in 16 bits as well.

    For comparison the same backward pass followed by the trainer's own PowerSGD.
    """
    many, half, one = (DistributedDataParallel(_Loss(), bucket_cap_mb=0.5) for _ in range(3))
    # A name without annotations: torch compares them with types, and here they are strings.
    half.register_comm_hook(None, lambda _state, bucket: _in_bf16(bucket))
    flat, flat_half = torch.ones(PARAMETERS), torch.ones(PARAMETERS, dtype=torch.bfloat16)
    model = FlatModel(_Loss(), dist.get_world_size())
    low_rank = PowerSgdReduction(model, TrainerOptions().powersgd_rank, seed=0)
    model.gradient.normal_(generator=torch.Generator().manual_seed(rank))

    def compute() -> None:
        with one.no_sync():
            torch.autograd.backward(one())

    def after(exchange: Callable[[], object]) -> Callable[[], None]:
        def step() -> None:
            compute()
            exchange()

        return step

    return {
        "compute": compute,
        "many": lambda: torch.autograd.backward(many()),
        "one": after(lambda: dist.all_reduce(flat)),
        "half_many": lambda: torch.autograd.backward(half()),
        "half_one": after(lambda: dist.all_reduce(flat_half)),
        "powersgd": after(lambda: low_rank.reduce(model, _Plain())),
    }


class _Plain:
    """The default group, as a reduction wants it."""

    def all_reduce(self, tensor: torch.Tensor) -> None:
        dist.all_reduce(tensor)


def _in_bf16(bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Reduce a bucket as 16-bit numbers: torch's own hook for that refuses Gloo."""
    gradients: torch.Tensor = bucket.buffer()
    wire = gradients.to(torch.bfloat16)
    work = dist.all_reduce(wire, async_op=True)
    assert work is not None

    def back(_done: object) -> torch.Tensor:
        return gradients.copy_(wire)

    done: torch.futures.Future[torch.Tensor] = work.get_future().then(back)
    return done


if __name__ == "__main__":
    if len(sys.argv) > 5 and sys.argv[1] in ("slow", "overlap"):
        work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        sys.exit(main("trainer_exchange", figures))
