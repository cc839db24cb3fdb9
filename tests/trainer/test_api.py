"""``trainer.prepare`` in one process: what the loop computes, and what is refused."""

from __future__ import annotations

import difflib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

import trainer
from tests.trainer.cluster import REPOSITORY
from tests.trainer.prepared import launched, network, samples, weights
from trainer import launch
from trainer.api_learner import expected_bytes
from trainer.errors import CheckpointError, UsageError
from trainer.events import Event, Shares, Step

EXAMPLES = REPOSITORY / "docs" / "examples"
PAGE = REPOSITORY / "docs" / "your-own-training.md"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checkpoints go to the current folder; every test is a run of its own."""
    monkeypatch.chdir(tmp_path)
    yield
    launch.current = None


def train(
    model: nn.Module,
    dataset: Dataset[Any],
    *,
    epochs: int = 2,
    momentum: float = 0.9,
    loader: dict[str, Any] | None = None,
    after: Callable[[Any], None] = lambda _run: None,
    **prepared: Any,
) -> Any:
    """Train with the package's own loop of a script, and return the run."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    data: DataLoader[Any] = DataLoader(dataset, **{"batch_size": 32, **(loader or {})})
    run = trainer.prepare(model, optimizer, data, **prepared)
    for _ in run.epochs(epochs):
        for inputs, targets in run:
            optimizer.zero_grad()
            run.backward(functional.cross_entropy(model(inputs), targets))
            optimizer.step()
            if not run.is_measuring:
                after(run)
    return run


def train_plainly(model: nn.Module, dataset: Dataset[Any], epochs: int = 2) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for inputs, targets in DataLoader(dataset, batch_size=32):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(inputs), targets))
            optimizer.step()


def test_the_balanced_example_differs_in_at_most_ten_lines_and_the_page_shows_them() -> None:
    plain = (EXAMPLES / "plain_training.py").read_text().splitlines()
    balanced = (EXAMPLES / "balanced_training.py").read_text().splitlines()
    diff = list(difflib.unified_diff(plain[1:], balanced[1:], lineterm="", n=1))[2:]
    changed = [line for line in diff if line[0] in "+-" and line[1:].strip()]
    assert len(changed) <= 10
    shown = PAGE.read_text()
    for line in changed:
        assert line in shown, f"the page does not show {line!r}"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, trainer, trainer.events, trainer.launch; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'prepaer'"):
        getattr(trainer, "prepaer")  # noqa: B009 - mypy knows that it is not there


@pytest.mark.parametrize("micro_batch", [0, 5])
def test_a_prepared_loop_trains_like_the_plain_one(micro_batch: int) -> None:
    """Seventy samples in batches of 32: the last step of an epoch is short, and 5 does not divide it."""
    expected, model = network(), network()
    train_plainly(expected, samples())
    launched(micro_batch=micro_batch)
    steps: list[int] = []
    run = train(model, samples(), after=lambda run: steps.append(run.step))
    assert run.step == 6
    assert steps[-1] == 6, "the optimizer must have stepped when its step() returns"
    assert torch.allclose(weights(model), weights(expected), rtol=0, atol=1e-6)


def test_every_sample_is_seen_once_an_epoch_when_shuffled() -> None:
    inputs = torch.arange(50.0).repeat(6, 1).T.contiguous()
    dataset = TensorDataset(inputs, torch.zeros(50, dtype=torch.int64))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    launched(micro_batch=7)
    run = trainer.prepare(model, optimizer, DataLoader(dataset, batch_size=20, shuffle=True))
    orders = []
    for _ in run.epochs(2):
        seen: list[float] = []
        for batch, targets in run:
            if not run.is_measuring:
                seen += batch[:, 0].tolist()
            run.backward(functional.cross_entropy(model(batch), targets))
            optimizer.step()
        assert sorted(seen) == list(range(50))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_ignored_labels_weigh_nothing_however_they_are_spread() -> None:
    inputs, targets = samples().tensors
    dataset = TensorDataset(inputs, torch.where(torch.arange(70) % 32 < 10, -100, targets))
    results = []
    for micro_batch in (5, 32):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        launched(micro_batch=micro_batch)
        run = trainer.prepare(model, optimizer, DataLoader(dataset, batch_size=32))
        for _ in run.epochs(1):
            for batch, labels in run:
                loss = functional.cross_entropy(model(batch), labels, ignore_index=-100)
                run.backward(loss, units=int((labels != -100).sum()))
                optimizer.step()
        results.append(weights(model))
    assert torch.isfinite(results[0]).all(), "a micro-batch without any label that counts has no mean"
    assert torch.allclose(results[0], results[1], rtol=0, atol=1e-6)


def test_dropout_and_augmentation_do_not_depend_on_the_micro_batch_or_the_workers() -> None:
    class Noisy(Dataset[tuple[Tensor, Tensor]]):
        def __init__(self) -> None:
            self.inputs, self.targets = samples().tensors

        def __len__(self) -> int:
            return len(self.inputs)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return self.inputs[index] + 0.5 * torch.randn(6), self.targets[index]

    results = []
    for micro_batch, workers in ((5, 0), (32, 0), (8, 1)):
        model = network(nn.Dropout(0.4))
        launched(micro_batch=micro_batch, seed=4)
        train(model, Noisy(), loader={"num_workers": workers, "shuffle": True})
        results.append(weights(model))
    assert torch.allclose(results[0], results[1], rtol=0, atol=1e-6)
    assert torch.allclose(results[0], results[2], rtol=0, atol=1e-6)
    plain = network()
    launched(seed=4)
    train(plain, Noisy(), loader={"shuffle": True})
    assert not torch.allclose(results[0], weights(plain), atol=1e-3), "dropout must have dropped something"


def test_schedule_clipping_and_stopping() -> None:
    model = network()
    launched(micro_batch=6)
    ours = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(ours, 2, gamma=0.5)
    loader = DataLoader(samples(), batch_size=32)
    run = trainer.prepare(model, ours, loader, scheduler=schedule, clip_grad_norm=0.05)
    for _ in run.epochs(1000):
        for inputs, targets in run:
            run.backward(functional.cross_entropy(model(inputs), targets))
            ours.step()
            if run.step == 3:
                run.stop()
    assert 3 < run.step < 300, "a stop takes effect when all ranks know of it"

    expected = network()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    for inputs, targets in (list(loader) * 100)[: run.step]:
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(expected(inputs), targets))
        nn.utils.clip_grad_norm_(expected.parameters(), 0.05)
        optimizer.step()
        scheduler.step()
    assert ours.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 0.5
    assert torch.allclose(weights(model), weights(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    optimizer_type: Callable[..., torch.optim.Optimizer],
) -> None:
    def go(epochs: int, *, resume: bool) -> tuple[Tensor, list[int]]:
        model = network(nn.BatchNorm1d(16))
        optimizer = optimizer_type(model.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        launched(resume=resume)
        loader = DataLoader(samples(), batch_size=32, shuffle=True)
        run = trainer.prepare(model, optimizer, loader, scheduler=schedule)
        seen = []
        for epoch in run.epochs(epochs):
            seen.append(epoch)
            for inputs, targets in run:
                run.backward(functional.cross_entropy(model(inputs), targets))
                optimizer.step()
        return weights(model), seen

    go(2, resume=False)
    resumed, epochs = go(4, resume=True)
    assert epochs == [2, 3]
    for path in Path("output/checkpoints").iterdir():
        path.unlink()
    assert torch.equal(resumed, go(4, resume=False)[0])


def train_with_ghost_batches(model: nn.Sequential, dataset: TensorDataset, ghost: list[list[int]]) -> None:
    """What batch norm is documented to do, written out: one machine, one ghost batch after the other."""
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step, sizes in enumerate(ghost):
        batch = slice(32 * step, 32 * step + sum(sizes))
        mean, variance = torch.zeros(16), torch.zeros(16)
        before = norm.running_mean.clone(), norm.running_var.clone()
        optimizer.zero_grad()
        inputs, targets = (torch.split(tensor[batch], sizes) for tensor in dataset.tensors)
        for some, labels in zip(inputs, targets, strict=True):
            hidden = model[0](some).detach()
            mean += len(some) * hidden.mean(0) / sum(sizes)
            variance += len(some) * hidden.var(0) / sum(sizes)
            torch.autograd.backward(functional.cross_entropy(model(some), labels) * len(some) / sum(sizes))
        norm.running_mean.copy_(0.9 * before[0] + 0.1 * mean)
        norm.running_var.copy_(0.9 * before[1] + 0.1 * variance)
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.fill_(step + 1)
        optimizer.step()


def test_batch_norm_is_that_of_one_machine_with_the_same_ghost_batches() -> None:
    """70 samples, steps of 32, 32 and 6, ghost batches of 10: the last one takes a rest that is less than half."""
    expected, model = network(nn.BatchNorm1d(16)), network(nn.BatchNorm1d(16))
    train_with_ghost_batches(expected, samples(), [[10, 10, 12], [10, 10, 12], [6]])
    launched(micro_batch=4)
    train(model, samples(), epochs=1, ghost_batch=10)
    for name, value in model.state_dict().items():
        assert torch.allclose(value, expected.state_dict()[name], rtol=0, atol=1e-6), name


def policies(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.step, event.policy) for event in events if isinstance(event, Shares)]


def test_resume_keeps_the_policy_unless_another_is_asked_for_and_refuses_another_seed() -> None:
    def go(epochs: int, **values: Any) -> list[Event]:
        events = launched(**values)
        train(network(), samples(), epochs=epochs)
        return events

    assert policies(go(1, policy="equal")) == [(0, "equal")]
    assert policies(go(2, resume=True)) == [(3, "equal")]
    again = go(3, resume=True, policy="static")
    assert policies(again) == [(6, "static")]
    assert [event.step for event in again if isinstance(event, Step)] == [6, 7, 8]
    with pytest.raises(CheckpointError, match="seed is 0 there and 7 here"):
        go(4, resume=True, seed=7)


def test_memory_of_the_next_micro_batch_is_foreseen() -> None:
    assert expected_bytes({}, 4) == 0
    assert expected_bytes({4: 400}, 8) == 800, "nothing is known of what the model itself takes"
    assert expected_bytes({4: 400, 8: 500}, 16) == 700
    assert expected_bytes({4: 400, 8: 500}, 8) == 500
    assert expected_bytes({4: 400, 8: 390}, 16) == 390


def test_another_sampler_gives_the_order() -> None:
    chances = [1.0] * 35 + [0.0] * 35
    inputs = torch.arange(70.0).repeat(6, 1).T.contiguous()
    sampler = WeightedRandomSampler(chances, 40)
    seen: list[float] = []
    model = network()
    launched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    dataset = TensorDataset(inputs, torch.zeros(70, dtype=torch.int64))
    run = trainer.prepare(model, optimizer, DataLoader(dataset, batch_size=16, sampler=sampler, drop_last=True))
    for _ in run.epochs(1):
        for batch, targets in run:
            if not run.is_measuring:
                seen += batch[:, 0].tolist()
            run.backward(functional.cross_entropy(model(batch), targets))
    assert len(seen) == 32
    assert max(seen) < 35


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(6)


def _loader(**values: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(**{"dataset": samples(), "batch_size": 8, **values})


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        (_loader(dataset=Stream()), "iterable dataset"),
        (_loader(batch_size=None), "needs a batch_size"),
        (_loader(sampler=DistributedSampler(samples(), 2, 0)), "leave the DistributedSampler out"),
        (_loader(dataset=samples(0)), "the dataset is empty"),
        (lambda: [1, 2], "expected a DataLoader, not list"),
    ],
)
def test_loaders_that_cannot_be_dealt_out_are_refused(loader: Callable[[], Any], told: str) -> None:
    model = network()
    with pytest.raises(UsageError, match=told):
        trainer.prepare(model, torch.optim.SGD(model.parameters()), loader())


def test_models_and_optimizers_that_cannot_be_trained_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(model: nn.Module, optimizer: torch.optim.Optimizer, told: str, **further: Any) -> None:
        with pytest.raises(UsageError, match=told):
            trainer.prepare(model, optimizer, DataLoader(samples(), batch_size=8), **further)

    model = network()
    refused(model.half(), torch.optim.SGD(model.parameters()), "float32")
    synced = network(nn.SyncBatchNorm(16))
    refused(synced, torch.optim.SGD(synced.parameters()), "SyncBatchNorm")
    refused(network(), torch.optim.SGD(network().parameters()), "parameters that are not the model's")
    refused(network().requires_grad_(False), torch.optim.SGD(model.parameters()), "no parameter that is trained")
    other = network()
    optimizer = torch.optim.SGD(other.parameters())
    plateau: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    refused(other, optimizer, "ReduceLROnPlateau", scheduler=plateau)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(network(), optimizer, "one of several that were started without the launcher")


def test_loops_that_go_wrong_are_told_how_to_go_right() -> None:
    def loop(body: Callable[[Any, nn.Module, Tensor, Tensor], None]) -> None:
        model = network()
        launched()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = trainer.prepare(model, optimizer, DataLoader(samples(), batch_size=32))
        for _ in run.epochs(1):
            for inputs, targets in run:
                body(run, model, inputs, targets)

    def forgot(_run: Any, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        torch.autograd.backward(functional.cross_entropy(model(inputs), targets))

    def cleared(run: Any, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        model.zero_grad()
        run.backward(functional.cross_entropy(model(inputs), targets))

    with pytest.raises(UsageError, match=r"did not call run.backward\(loss\)"):
        loop(forgot)
    with pytest.raises(UsageError, match=r"leave model.zero_grad\(\) out"):
        loop(cleared)
    launched()
    model = network()
    run = trainer.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(samples(), batch_size=8))
    with pytest.raises(UsageError, match="belongs into the loop"):
        run.backward(torch.zeros(()))
    with pytest.raises(UsageError, match="one training only"):
        trainer.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(samples(), batch_size=8))
    with pytest.raises(UsageError, match="has to loop over run"):
        for _ in run.epochs(1):
            pass
