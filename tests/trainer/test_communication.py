"""Ways for gradients to travel: what they keep, what they save, and that training still learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.cluster import cluster
from trainer.communication import make_reduction
from trainer.communication_choice import choose
from trainer.compression import PowerSgdReduction
from trainer.events import Calibrated, Checkpoint, Done, Failed, Membership, Notice, Step
from trainer.options import Communication, Options
from trainer.reduction import ExactReduction, FlatModel, Reduction, Row


class Lockstep:
    """Runs the reductions of several ranks in one process: each rank's n-th collective is summed with the others'."""

    def __init__(self, ranks: int) -> None:
        self.sums: list[Tensor] = []
        self.ranks = ranks

    def run(self, reductions: Sequence[Reduction], flats: Sequence[FlatModel]) -> None:
        """Repeat all ranks' reductions, each time with one more collective known, until all can be done."""
        before = [flat.buffer.clone() for flat in flats]
        self.sums = []
        while True:
            parts = []
            for reduction, flat, buffer in zip(reductions, flats, before, strict=True):
                flat.buffer.copy_(buffer)
                player = Player(self.sums)
                try:
                    reduction.reduce(flat, player)
                except Unknown as unknown:
                    parts.append(unknown.part)
            if not parts:
                return
            self.sums.append(torch.stack(parts).sum(0))


class Unknown(Exception):
    def __init__(self, part: Tensor) -> None:
        self.part = part


class Player:
    def __init__(self, sums: Sequence[Tensor]) -> None:
        self.sums = list(sums)

    def all_reduce(self, tensor: Tensor) -> None:
        if not self.sums:
            raise Unknown(tensor.clone())
        tensor.copy_(self.sums.pop(0))


def flats(ranks: int) -> list[FlatModel]:
    torch.manual_seed(0)
    made = []
    for _ in range(ranks):
        model = nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 3))
        made.append(FlatModel(model, ranks))
    return made


def fill(made: Sequence[FlatModel], seed: int = 1) -> Tensor:
    """Give every rank a random gradient with some low-rank structure, and its row; return the exact sum."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(made[0].size, dtype=torch.float64)
    for rank, flat in enumerate(made):
        flat.zero()
        flat.gradient.copy_(torch.randn(flat.size, generator=generator) * (rank + 1))
        flat.write_row(rank, Row(samples=10.0 + rank, loss=0.1 * rank, command=(1 << 24) - 1))
        total += flat.gradient.double()
    return total


def error(flat: FlatModel, exact: Tensor) -> float:
    return float((flat.gradient.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("name", "limit"), [("exact", 1e-6), ("bf16", 1e-2), ("fp16", 2e-3), ("powersgd", 1.0)])
def test_rows_are_exact_and_gradients_as_good_as_promised(name: str, limit: float) -> None:
    made = flats(3)
    exact = fill(made)
    options = Options(powersgd_rank=4)
    reductions = [make_reduction(cast("Communication", name), options, flat) for flat in made]
    Lockstep(3).run(reductions, made)
    for flat in made:
        assert error(flat, exact) < limit
        rows = flat.read_rows(range(3))
        assert [row.samples for row in rows] == [10, 11, 12]
        assert [row.command for row in rows] == [(1 << 24) - 1] * 3
        assert torch.equal(flat.gradient, made[0].gradient), "all ranks must get the same bits"
    if name != "exact":
        assert reductions[0].bytes_per_step(made[0]) < 0.55 * ExactReduction().bytes_per_step(made[0])


def test_powersgd_is_exact_for_low_rank_gradients_and_loses_nothing_over_time() -> None:
    made = flats(2)
    low = torch.outer(torch.randn(60), torch.randn(40))
    reductions = [PowerSgdReduction(flat, 4, 0) for flat in made]
    for flat in made:
        flat.zero()
        flat.gradient[: 60 * 40] = low.flatten()
    Lockstep(2).run(reductions, made)
    assert torch.allclose(made[0].gradient[: 60 * 40].view(60, 40), 2 * low, atol=1e-4)

    sent, wanted = torch.zeros(made[0].size), torch.zeros(made[0].size)
    exact = fill(made).float()
    for _ in range(60):
        fill(made)
        Lockstep(2).run(reductions, made)
        sent += made[0].gradient
        wanted += exact
    assert float((sent - wanted).norm() / wanted.norm()) < 0.25, "error feedback must send the rest later"


def test_nothing_is_remembered_of_a_reduction_that_failed() -> None:
    [flat] = flats(1)
    fill([flat])
    reduction = PowerSgdReduction(flat, 4, 0)
    gradient, error_before = flat.gradient.clone(), reduction._error.clone()
    with pytest.raises(Unknown):
        reduction.reduce(flat, Player([torch.zeros(1).expand(60 * 4 + 60 + 180 + 3 + flat.rows.numel()).clone()]))
    assert torch.equal(flat.gradient, gradient)
    assert torch.equal(reduction._error, error_before)


def test_flat_model_shares_its_memory_with_the_model() -> None:
    [flat] = flats(1)
    layer = flat.model[0]  # type: ignore[index]
    flat.parameters.data[0] = 42
    assert layer.weight[0, 0].item() == 42
    flat.model(torch.ones(2, 40)).sum().backward()
    assert float(flat.gradient.abs().sum()) > 0
    first = flat.checksum()
    flat.parameters.data[7] += 1e-3
    assert flat.checksum() != first
    flat.parameters.data[[3, 4]] = flat.parameters.data[[4, 3]]
    assert flat.checksum() != first


@pytest.mark.parametrize(
    ("rate", "compute", "mode"),
    [
        (0.0, 1.0, "exact"),
        (1e9, 1.0, "exact"),
        (4e7, 1.0, "bf16"),
        (2e7, 1.0, "powersgd"),
        (1e7, 0.1, "powersgd"),
        (1e7, 0.0, "powersgd"),
    ],
)
def test_auto_follows_the_measured_link(rate: float, compute: float, mode: str) -> None:
    choice = choose("auto", 10_000_000, rate, compute)
    assert choice.mode == mode
    assert choice.reason
    assert choose("fp16", 10_000_000, rate, compute).mode == "fp16"


TRAIN = ("--samples", "1280", "--global-batch", "128", "--epochs", "2", "--check-every", "4")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bf16", "powersgd", "local_sgd", "auto"])
def test_training_learns_in_every_mode(tmp_path: Path, mode: str) -> None:
    options = [*TRAIN, "--communication", mode, "--local-steps", "4", "--checkpoint-every", "5"]
    with cluster(tmp_path) as run:
        run.start([1, 1], options)
        assert run.wait() == [0, 0]
        assert not run.of(Failed)
        assert run.of(Calibrated, 0)[0].link_bytes_per_second > 0
        steps = run.of(Step, 0)
        assert [event.step for event in steps] == list(range(20))
        assert min(event.loss for event in steps[-3:]) < 0.8 * math.log(10)
        assert {event.samples for event in run.of(Done)} == {2560}
        notices = [event.text for event in run.of(Notice)]
        assert not [text for text in notices if "drifted" in text]
        assert any(text.startswith("gradients travel as") and "MB a step" in text for text in notices)
        assert {event.step for event in run.of(Checkpoint)} >= {20}


@pytest.mark.slow
def test_local_sgd_survives_a_lost_rank(tmp_path: Path) -> None:
    with cluster(tmp_path) as run:
        options = ["--communication", "local_sgd", "--local-steps", "5", "--max-restarts", "1", "--global-batch", "60"]
        run.start([1, 1], [*options, "--samples", "6000", "--epochs", "3", "--check-every", "5"], speeds=[300, 300])
        run.wait_for(lambda: len(run.of(Step, 0)) >= 8)
        run.kill(1)
        run.wait_for(lambda: any(event.joined == (1,) for event in run.of(Membership)))
        step = run.of(Step, 0)[-1].step
        run.wait_for(lambda: run.of(Step, 1)[-1].step >= step + 12)
        run.send("stop")
        assert run.wait() == [0, 0]
        assert not [event.text for event in run.of(Notice) if "drifted" in event.text]
