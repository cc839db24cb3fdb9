"""Prepared scripts on several unequal ranks, one of which is killed on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.cluster import REPOSITORY, Cluster, cluster
from trainer.events import Calibrated, Checkpoint, Done, Failed, Membership, Notice, Shares, Step

pytestmark = pytest.mark.slow

EXAMPLES = REPOSITORY / "docs" / "examples"
SLOW = 8.0
"""Samples/s at which the rest of a run takes longer than a process needs to start again."""

BATCH_NORM = """
import sys

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import trainer

torch.manual_seed(0)
data = TensorDataset(torch.randn(400, 8), torch.randint(0, 3, (400,)))
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
run = trainer.prepare(model, optimizer, DataLoader(data, batch_size=96, shuffle=True), ghost_batch=8, seed=5)
for epoch in run.epochs(2):
    for inputs, targets in run:
        run.backward(functional.cross_entropy(model(inputs), targets))
        optimizer.step()
        if "fail" in sys.argv and run.rank == 1 and run.step == 3:
            raise RuntimeError("this rank gives up")
torch.save(model.state_dict(), f"{sys.argv[1]}-{run.rank}.pt")
"""


def alone(folder: Path, script: Path, *arguments: str) -> None:
    """Run a script as ``python script.py``."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder, env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def difference(one: Path, other: Path) -> float:
    """Return the largest difference between two saved models."""
    left, right = torch.load(one, weights_only=True), torch.load(other, weights_only=True)
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def speeds(run: Cluster, values: dict[int, float]) -> None:
    for rank, value in values.items():
        run.send("simulate", hosts=[rank], samples_per_second=value)


def test_the_examples_end_alike_though_ranks_are_unequal_and_one_is_killed(tmp_path: Path) -> None:
    arguments = ("--in-order", "--epochs", "3", "--save")
    alone(tmp_path, EXAMPLES / "plain_training.py", *arguments, "plain.pt")
    with cluster(tmp_path) as run:
        own = [str(EXAMPLES / "balanced_training.py"), *arguments, "balanced.pt"]
        options = ["--heartbeat-timeout", "10", "--check-every", "1", "--checkpoint-every", "20"]
        run.start([1, 1, 1], [*options, *own], speeds=[300, 150, 75])
        run.wait_for(lambda: len(run.of(Step, 1)) >= 5)
        run.kill(2)
        run.wait_for(lambda: bool(run.of(Membership)))
        assert run.of(Membership)[0].members == (0, 1)
        speeds(run, {0: SLOW, 1: SLOW})
        run.wait_for(lambda: any(event.joined == (2,) for event in run.of(Membership)))
        speeds(run, {0: 600, 1: 300})
        assert run.wait() == [0, 0, 0]
        assert not run.of(Failed)
        first = run.of(Shares)[0].shares
        assert first[0] > first[2] > 0, "shares must be unequal for this to mean anything"
        assert len(run.of(Calibrated, 2)) == 2
        assert {event.samples for event in run.of(Done)} == {6000}
        steps = [event.step for event in run.of(Step, 0)]
        assert steps == list(range(63)), "every step once, and none told twice by an observer"
        assert [event.step for event in run.of(Checkpoint, 0)][-1] == 63
        assert not [event for event in run.of(Notice) if "drifted" in event.text]
        assert "epoch 2: loss" in run.output()
    assert difference(tmp_path / "plain.pt", tmp_path / "balanced.pt") < 1e-5


def test_batch_norm_and_dropout_are_the_same_on_any_ranks(tmp_path: Path) -> None:
    script = tmp_path / "norm.py"
    script.write_text(BATCH_NORM)
    alone(tmp_path, script, "alone")
    with cluster(tmp_path) as run:
        run.start([1, 2], [str(script), "together"], speeds=[160, 40])
        assert run.wait() == [0, 0]
        first = run.of(Shares)[0].shares
        assert all(share % 8 == 0 for share in first), "ghost batches are dealt out whole"
        assert first[0] > first[1], "shares must be unequal for this to mean anything"
    for rank in range(3):
        assert difference(tmp_path / "alone-0.pt", tmp_path / f"together-{rank}.pt") < 1e-5


def test_a_prepared_script_that_fails_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    script = tmp_path / "norm.py"
    script.write_text(BATCH_NORM)
    with cluster(tmp_path) as run:
        run.start([1, 1], [str(script), "together", "fail"], speeds=[900, 300])
        assert run.wait() == [0, 1]
        assert "this rank gives up" in run.of(Failed, 1)[0].error
        assert run.of(Membership)[-1].members == (0,)
        assert [event.state for event in run.of(Done)] == ["finished"]
