"""A script of the user's that exists on the master only: brought to every host, with its modules and files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from remote.embedded import EmbeddedHost, embedded_hosts
from remote.plan_contract import CODE_CACHE
from tests.ssh.test_command_line import SPEEDS, CommandLine

pytestmark = pytest.mark.slow

SCRIPT = """\
import os
import torch
import torch.distributed as dist
from mine.model import build

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(build())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
words = open("words.txt").read().strip()
for step in range(3):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
print(f"rank {dist.get_rank()} read {words!r} in {os.path.basename(os.path.dirname(os.getcwd()))}", flush=True)
dist.destroy_process_group()
"""


@pytest.fixture
async def command_line(tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with embedded_hosts([EmbeddedHost(name) for name in SPEEDS]) as hosts:
        line = CommandLine(tmp_path, hosts)
        code = tmp_path / "code"
        (code / "mine").mkdir(parents=True)
        (code / "train.py").write_text(SCRIPT)
        (code / "words.txt").write_text("good morning")
        (code / "mine" / "model.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(8, 1)\n")
        line.write_cluster()
        text = (tmp_path / "cluster.toml").read_text()
        kept = [row for row in text.splitlines() if not row.startswith(("workload", "samples", "epochs"))]
        own = ["[training]", 'workdir = "code"', 'script = "train.py"', 'policy = "equal"']
        text = "\n".join(kept).replace("[training]", "\n".join(own))
        (tmp_path / "cluster.toml").write_text(text + "\n")
        yield line
        await line.run("stop")


async def test_the_script_runs_on_every_host_and_only_changes_travel(command_line: CommandLine) -> None:
    first = await command_line.run("up", "--json")
    assert first.code == 0, first.err
    logs = await command_line.run("logs")
    for rank in range(3):
        assert f"rank {rank} read 'good morning' in trees" in logs.out
    trees = [list((Path(host.home) / CODE_CACHE / "trees").iterdir()) for host in command_line.hosts.hosts]
    assert [len(found) for found in trees] == [1, 1, 1]
    (command_line.folder / "code" / "words.txt").write_text("good night")
    second = await command_line.run("up", "--json")
    assert second.code == 0, second.err
    assert "rank 0 read 'good night' in trees" in (await command_line.run("logs")).out
    assert json.loads(second.out)["run"] != json.loads(first.out)["run"]


async def test_a_missing_script_is_told_before_anything_is_started(command_line: CommandLine) -> None:
    (command_line.folder / "code" / "train.py").unlink()
    answer = await command_line.run("plan")
    assert answer.code == 2
    assert "has no train.py" in answer.err
