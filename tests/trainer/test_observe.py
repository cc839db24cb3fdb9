"""Unmodified torchrun-style scripts under observation: real processes, real process groups, real loops."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from trainer.events import Done, Event, Joined, Notice, Step, decode
from trainer.observe import torchrun_environment

PRELUDE = """
import os, sys, time, torch, torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
torch.set_num_threads(1)
torch.manual_seed(0)
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
DATA = TensorDataset(torch.randn(96, 12), torch.randint(0, 3, (96,)))
NET = lambda: nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
"""

PLAIN_DDP = """
dist.init_process_group("gloo")
loader = DataLoader(DATA, batch_size=8, sampler=DistributedSampler(DATA))
held_out = DataLoader(DATA, batch_size=32)
model = nn.parallel.DistributedDataParallel(NET())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    loader.sampler.set_epoch(epoch)
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        if RANK == 1:
            time.sleep(0.03)      # slow in its own part of the step
        loss = nn.functional.cross_entropy(model(x), y)
        if RANK == 1:
            time.sleep(0.03)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in held_out)
        time.sleep(0.5)
print("correct", correct)
dist.destroy_process_group()
"""

ACCELERATE_STYLE = """
# What Accelerate does: one batch fetched ahead, gradients accumulated under no_sync, inputs passed by name.
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = NET()
    def forward(self, input_values=None, labels=None):
        return {"loss": nn.functional.cross_entropy(self.net(input_values), labels)}

class ShardedLoader(DataLoader):
    def __iter__(self):
        batches = super().__iter__()
        ahead = next(batches)
        for batch in batches:
            yield ahead
            ahead = batch
        yield ahead

class PreparedOptimizer(torch.optim.Optimizer):
    def __init__(self, optimizer):
        self.optimizer = optimizer
    param_groups = property(lambda self: self.optimizer.param_groups)
    def step(self, closure=None):
        self.optimizer.step(closure)
    def zero_grad(self):
        self.optimizer.zero_grad()

dist.init_process_group("gloo")
collate = lambda rows: {"input_values": torch.stack([r[0] for r in rows]), "labels": torch.stack([r[1] for r in rows])}
loader = ShardedLoader(DATA, batch_size=10, sampler=DistributedSampler(DATA), collate_fn=collate)
model = nn.parallel.DistributedDataParallel(Model())
optimizer = PreparedOptimizer(torch.optim.AdamW(model.parameters(), lr=0.01))
for epoch in range(2):
    batches = list(range(len(loader)))
    for at, batch in zip(batches, loader):
        last = (at + 1) % 2 == 0 or at == batches[-1]
        if last:
            model(**batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            with model.no_sync():
                model(**batch)["loss"].backward()
"""

FABRIC_STYLE = """
# What Lightning Fabric does: module, optimizer and loader each inside a wrapper of its own; two networks.
class FabricModule(nn.Module):
    def __init__(self, wrapped):
        super().__init__()
        self._wrapped = wrapped
    def forward(self, *args, **kwargs):
        return self._wrapped(*args, **kwargs)

class FabricLoader:
    def __init__(self, loader):
        self._loader = loader
    def __iter__(self):
        for item in iter(self._loader):
            yield [each.to("cpu") for each in item]

class FabricOptimizer:
    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__dict__.update({k: v for k, v in optimizer.__dict__.items() if k not in ("state_dict", "step")})
    def step(self):
        return self._optimizer.step()

assert os.environ["TORCHELASTIC_RUN_ID"] == "run-7"
dist.init_process_group("gloo")
loader = FabricLoader(DataLoader(DATA, batch_size=16, sampler=DistributedSampler(DATA), num_workers=1))
critic = FabricModule(nn.parallel.DistributedDataParallel(NET()))
maker = FabricModule(nn.parallel.DistributedDataParallel(nn.Linear(12, 12)))
critic_optimizer = FabricOptimizer(torch.optim.SGD(critic.parameters(), lr=0.1))
maker_optimizer = FabricOptimizer(torch.optim.SGD(maker.parameters(), lr=0.1))
for x, y in loader:
    # The critic sees every batch twice, real and made: that is still one batch of samples.
    for parameter in critic.parameters():
        parameter.grad = None
    (critic(x).square().mean() - critic(maker(x).detach()).square().mean()).backward()
    critic_optimizer.step()
    for parameter in maker.parameters():
        parameter.grad = None
    critic(maker(x)).square().mean().backward()
    maker_optimizer.step()
"""


def launch(
    tmp_path: Path, body: str, world_size: int = 1, arguments: tuple[str, ...] = (), name: str = "train.py"
) -> list[tuple[int, list[Event], str, str]]:
    """Run the script on every rank as the agent does; return exit code, events, other output and errors of each."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    script = tmp_path / name
    script.write_text(textwrap.dedent(PRELUDE + body))
    # The store outlives the ranks and listens before them, as the one of the master's agent does.
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    processes = []
    for rank in range(world_size):
        environment = {
            "PATH": os.environ["PATH"], "RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
            "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        environment |= torchrun_environment(environment, "run-7")
        command = [sys.executable, "-P", "-m", "trainer.observe", str(script), *arguments]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
            )
        )
    results = []
    for process in processes:
        output, errors = process.communicate(timeout=90)
        events = [decode(line) for line in output.splitlines()]
        plain = "\n".join(line for line in output.splitlines() if decode(line) is None)
        results.append((process.returncode, [event for event in events if event is not None], plain, errors))
    return results


def steps_of(events: list[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def test_plain_ddp_script_over_gloo(tmp_path: Path) -> None:
    results = launch(tmp_path, PLAIN_DDP, world_size=2)
    for exit_code, events, output, errors in results:
        assert exit_code == 0, errors
        assert "correct" in output
        steps = steps_of(events)
        assert [step.step for step in steps] == list(range(12))
        assert [step.share for step in steps] == [8] * 12
        assert {step.global_batch for step in steps} == {16}
        assert [step.epoch for step in steps] == [0] * 6 + [1] * 6
        assert {step.learning_rate for step in steps} == {0.1}
        assert all(math.isnan(step.loss) for step in steps)
        # The evaluation between the epochs takes half a second and is part of no step.
        assert all(step.duration < 0.45 for step in steps[1:])
        assert all(0 <= step.data + step.compute <= step.duration for step in steps)
        joined = [event for event in events if isinstance(event, Joined)]
        assert [event.world_size for event in joined] == [2]
        done = events[-1]
        assert isinstance(done, Done)
        assert (done.steps, done.samples) == (12, 192)
        assert [event.seq for event in events] == list(range(len(events)))
    # Both ranks' steps are equally long; only compute tells who is slow: rank 1 sleeps in its own, and rank 0 waits.
    fast, slow = (steps_of(events)[2:] for _, events, _, _ in results)
    assert sum(step.compute for step in slow) > 0.025 * len(slow)
    assert sum(step.compute for step in fast) < 0.5 * sum(step.compute for step in slow)
    assert sum(step.wait for step in fast) > 0.03 * len(fast)
    assert sum(step.wait for step in slow) < 0.5 * sum(step.wait for step in fast)


@pytest.mark.slow
def test_accelerate_style_loop_over_gloo(tmp_path: Path) -> None:
    for exit_code, events, _, errors in launch(tmp_path, ACCELERATE_STYLE, world_size=2):
        assert exit_code == 0, errors
        # 48 samples a rank and epoch in batches of 10, two batches a step: the last step has what is left.
        assert [step.share for step in steps_of(events)] == [20, 20, 8] * 2
        assert [step.epoch for step in steps_of(events)] == [0, 0, 0, 1, 1, 1]
        assert {step.learning_rate for step in steps_of(events)} == {0.01}


@pytest.mark.slow
def test_fabric_style_loop_with_two_optimizers_over_gloo(tmp_path: Path) -> None:
    for exit_code, events, _, errors in launch(tmp_path, FABRIC_STYLE, world_size=2):
        assert exit_code == 0, errors
        assert [step.share for step in steps_of(events)] == [16, 16, 16]


def test_sequence_first_inputs_are_counted_by_the_loader(tmp_path: Path) -> None:
    body = """
    model = nn.GRU(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in DataLoader(TensorDataset(torch.randn(20, 7, 3), torch.zeros(20)), batch_size=5):
        model(x.transpose(0, 1))[0].sum().backward()
        optimizer.step()
    """
    [(exit_code, events, _, errors)] = launch(tmp_path, body.replace("\n    ", "\n"))
    assert exit_code == 0, errors
    assert [step.share for step in steps_of(events)] == [5, 5, 5, 5]


def test_a_loop_without_a_loader_and_a_second_phase(tmp_path: Path) -> None:
    """Batches made by hand, then another model with another optimizer."""
    body = """
    for width in (3, 4):
        model = NET()
        model(torch.randn(50, 12)).sum().backward() if width == 0 else None
        optimizer = torch.optim.SGD(model.parameters(), lr=width)
        for _ in range(4):
            model(torch.randn(width, 12)).sum().backward()
            optimizer.step()
        kept = globals().setdefault("kept_", [])
        kept.append((model, optimizer))
    """
    [(exit_code, events, _, errors)] = launch(tmp_path, body.replace("\n    ", "\n"))
    assert exit_code == 0, errors
    steps = steps_of(events)
    # The second optimizer is taken for the script's own once the first one has been silent for a whole turn.
    assert [step.learning_rate for step in steps] == [3.0] * 4 + [4.0] * 3
    assert [step.share for step in steps[:4]] == [3] * 4
    assert [step.share for step in steps[-2:]] == [4] * 2


def test_arguments_folder_and_exit_code_are_as_with_python(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("VALUE = 5\n")
    body = """
    import helpers
    here = os.path.dirname(os.path.abspath(__file__))
    print(sys.argv[1:], __name__, os.path.basename(__file__), helpers.VALUE, sys.path[0] == here)
    sys.exit(int(sys.argv[2]))
    """
    [(exit_code, events, output, _)] = launch(tmp_path, body.replace("\n    ", "\n"), arguments=("--n", "3"))
    assert exit_code == 3
    assert output == "['--n', '3'] __main__ train.py 5 True"
    assert events == []


def test_exit_with_a_text_is_printed_and_means_one(tmp_path: Path) -> None:
    [(exit_code, events, _, errors)] = launch(tmp_path, "\nsys.exit('no data')\n")
    assert (exit_code, errors.strip()) == (1, "no data")
    assert events == []


def test_a_failing_script_ends_with_its_own_traceback(tmp_path: Path) -> None:
    [(exit_code, events, _, errors)] = launch(tmp_path, "\nraise LookupError('broken here')\n")
    assert exit_code == 1
    assert "LookupError: broken here" in errors
    assert "train.py" in errors
    assert events == []


def test_another_trainer_module_is_told(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("raise SystemExit('the wrong one')\n")
    body = "\nimport trainer.plan\nprint(trainer.plan.solve_shares.__module__)\n"
    [(exit_code, events, output, errors)] = launch(tmp_path, body)
    assert exit_code == 0, errors
    assert output == "trainer.plan"
    notices = [event for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert str(tmp_path / "trainer.py") in notices[0].text
    assert notices[0].level == "warning"


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "trainer.observe", "nowhere.py"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.returncode == 1
    assert "there is no script nowhere.py on this host" in ran.stderr


def test_hooks_are_gone_after_removal(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from torch.utils.data import DataLoader

    from trainer.events import Emitter
    from trainer.observe import install

    lines: list[str] = []
    original = DataLoader.__iter__
    observer = install(Emitter(0, lines.append), 1)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()

    step()
    assert len(lines) == 1
    observer.remove()
    step()
    assert len(lines) == 1
    assert DataLoader.__iter__ is original
    assert not model._forward_pre_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_compute_on_a_gpu_is_measured_by_its_own_clock() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    from trainer.events import Emitter
    from trainer.observe import install

    lines: list[str] = []
    model = torch.nn.Sequential(*[torch.nn.Linear(2048, 2048) for _ in range(8)]).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    observer = install(Emitter(0, lines.append), 1)
    for _ in range(8):
        model(torch.ones(512, 2048, device="cuda")).sum().backward()
        optimizer.step()
        torch.cuda.synchronize()
    observer.remove()
    steps = [event for event in map(decode, lines) if isinstance(event, Step)]
    assert all(0 < step.compute <= step.duration for step in steps)
    assert all(step.share == 512 for step in steps)
