"""A torchrun script of a user's, unchanged, under the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.cluster import cluster
from trainer.events import Done, Failed, Joined, Step

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1)), 8)
print("arguments", sys.argv[1:])
for epoch in range(2):
    for number, (inputs, targets) in enumerate(loader):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        if "fail" in sys.argv and epoch and dist.get_rank() == 1:
            raise RuntimeError("this rank gives up")
        optimizer.step()
dist.destroy_process_group()
"""


def test_a_script_of_two_ranks_is_watched(tmp_path: Path) -> None:
    script = tmp_path / "my_training.py"
    script.write_text(SCRIPT)
    with cluster(tmp_path) as run:
        run.start([1, 1], [str(script), "--depth", "3"])
        assert run.wait() == [0, 0]
        assert not run.of(Failed)
        assert len(run.of(Joined)) == 2
        assert len(run.of(Step, 0)) == len(run.of(Step, 1)) == 16
        assert [event.state for event in run.of(Done)] == ["finished", "finished"]
        assert "arguments ['--depth', '3']" in run.output()


def test_a_script_that_fails_on_one_rank_ends_all_and_is_named(tmp_path: Path) -> None:
    script = tmp_path / "my_training.py"
    script.write_text(SCRIPT)
    with cluster(tmp_path) as run:
        run.start([1, 1], [str(script), "fail"])
        assert run.wait(timeout=60) == [1, 1]
        assert "this rank gives up" in run.of(Failed, 1)[0].error
        assert "line" in run.of(Failed, 1)[0].traceback
        assert "rank 1 was lost: RuntimeError: this rank gives up" in run.of(Failed, 0)[0].error
