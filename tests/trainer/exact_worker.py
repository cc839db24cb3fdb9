"""One of several processes that compute a step together over Gloo: see test_exactness.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch import Tensor, nn

from trainer.data import BalancedSampler
from trainer.learner import Learner
from trainer.options import Options
from trainer.reduction import ExactReduction, FlatModel, Row
from trainer.workloads import Workload, build
from trainer.workloads.base import Batch

IGNORED = -100


class Tokens:
    """Random tokens; a third of the labels, more in some samples than in others, do not count."""

    size = 512

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        generator = torch.Generator().manual_seed(5)
        inputs = torch.randint(0, 32, (self.size, 12), generator=generator)
        targets = torch.randint(0, 32, (self.size, 12), generator=generator)
        kept = torch.rand(self.size, 12, generator=generator) < torch.rand(self.size, 1, generator=generator)
        targets = torch.where(kept, targets, IGNORED)[indices]
        return Batch(inputs[indices], targets, keys, int((targets != IGNORED).sum()))


class TokenWorkload:
    """Predicts tokens; the loss is the mean over the labels that count, and they are unevenly spread."""

    name = "tokens"
    units_per_sample = 6.0

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model: nn.Module = nn.Sequential(nn.Embedding(32, 24), nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 32))
        self.source = Tokens()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.model(batch.inputs)
        loss = functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return loss, torch.zeros((), dtype=torch.int64)


class World:
    """The group of these processes."""

    def all_reduce(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)


class Alone:
    """One process computes everything."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Nothing to add."""


def gradient(workload: Workload, case: dict[str, object], rank: int, *, alone: bool) -> tuple[Tensor, float, int]:
    """Return the mean gradient of one step, the mean loss and the number of samples."""
    step, batch, micro_batch = case["step"], case["batch"], case["micro_batch"]
    shares = case["shares"]
    assert isinstance(step, int)
    assert isinstance(batch, int)
    assert isinstance(micro_batch, int)
    assert isinstance(shares, list)
    learner = Learner(workload, Options(seed=3), device="cpu", world_size=4, simulated_samples_per_second=1e12)
    sampler = BalancedSampler(workload.source.size, batch, 3)
    size = sampler.batch_size(step)
    mine = sampler.batch(step) if alone else sampler.part(step, shares, rank)
    nominal = size * workload.units_per_sample
    flat: FlatModel = learner.flat
    # One machine computes in pieces too: a single pass over 192 images differs from any pieces by 1.3e-6 in float32.
    computed = learner.compute(mine, step, min(micro_batch, 64) if alone else micro_batch, nominal, lambda: False)
    row = Row(samples=computed.samples, units=computed.units, loss=computed.loss)
    flat.write_row(rank, row)
    ExactReduction().reduce(flat, Alone() if alone else World())
    rows = flat.read_rows([rank] if alone else range(4))
    units = sum(each.units for each in rows)
    loss = sum(each.loss for each in rows) / units
    return flat.gradient * (nominal / units), loss, round(sum(each.samples for each in rows))


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=4)
    results = []
    for case in json.loads((folder / "cases.json").read_text()):
        workloads = [build(Options(seed=3, samples=500)) for _ in range(2)] if case["data"] == "images" else None
        together, single = workloads or (TokenWorkload(), TokenWorkload())
        ours, loss, samples = gradient(together, case, rank, alone=False)
        reference, reference_loss, reference_samples = gradient(single, case, rank, alone=True)
        error = float((ours.double() - reference.double()).norm() / reference.double().norm())
        results.append([error, abs(loss - reference_loss) / reference_loss, samples, reference_samples])
    (folder / f"result{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
