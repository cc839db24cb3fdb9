"""The peer: the same model and data under plain DistributedDataParallel with equal batches, as its tutorial has it.

``python -m benchmarks.trainer_ddp BATCH`` is one rank. It prints its process id; for every number on standard input it
does so many steps and prints their durations as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore
from torch.nn.parallel import DistributedDataParallel

from benchmarks.trainer_asked import Asked
from benchmarks.trainer_quota import CpuQuota
from trainer.data import sample_keys
from trainer.options import Options
from trainer.plan import equal_shares
from trainer.workloads import Workload, build
from trainer.workloads.base import Batch

WARM_UP_STEPS: Final = 2
TIMEOUT: Final = timedelta(seconds=120)


class DdpRun:
    """One DDP rank in each quota, all on loopback with gloo. A context manager: nothing is left running."""

    def __init__(self, quotas: Sequence[CpuQuota], global_batch: int) -> None:
        """Start the ranks; they stand still until :meth:`measure`.

        Raises:
            RunFailed: a rank ended badly.
        """
        self._global_batch = global_batch
        self._ranks = len(quotas)
        self._store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        environments = [
            {
                "RANK": str(rank), "WORLD_SIZE": str(len(quotas)), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                "GLOO_SOCKET_IFNAME": "lo",
            }
            for rank in range(len(quotas))
        ]  # fmt: skip
        arguments = [[str(global_batch)]] * len(quotas)
        self._asked = Asked("benchmarks.trainer_ddp", arguments, quotas, environments)

    def measure(self, steps: int) -> float:
        """Return samples per second over ``steps`` steps, after some to warm up.

        Raises:
            RunFailed: a rank ended badly.
        """
        answers = self._asked.ask([str(steps + WARM_UP_STEPS)] * self._ranks)
        durations: list[float] = answers[0][WARM_UP_STEPS:]
        return self._global_batch * len(durations) / sum(durations)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.__exit__(kind, error, trace)


class _Loss(nn.Module):
    """A workload as the module that DistributedDataParallel wraps; its output is the sum of the losses."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.model = workload.model
        self._workload = workload

    def forward(self, batch: Batch) -> Tensor:
        return self._workload.loss(batch)[0]


def train(global_batch: int) -> None:
    """Be one rank: do as many steps as each line of standard input says, and answer with their durations."""
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    workload = build(Options(samples=4 * global_batch))
    print(os.getpid(), flush=True)
    shares = equal_shares(world_size, global_batch)
    first = sum(shares[:rank])
    model: DistributedDataParallel | None = None
    for line in sys.stdin:
        if model is None:
            dist.init_process_group("gloo")
            model = DistributedDataParallel(_Loss(workload))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        durations = []
        for step in range(int(line)):
            began = time.perf_counter()
            indices = (torch.arange(first, first + shares[rank]) + step * global_batch) % workload.source.size
            batch = workload.source.batch(indices, sample_keys(indices, 0, step))
            optimizer.zero_grad()
            torch.autograd.backward(model(batch) / shares[rank])
            optimizer.step()
            durations.append(time.perf_counter() - began)
        dist.barrier()
        print(json.dumps(durations), flush=True)


if __name__ == "__main__":
    train(int(sys.argv[1]))
