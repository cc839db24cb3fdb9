"""Runs of one rank in this process, through ``trainer.prepare``, for the tests of the trainer."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trainer import launch
from trainer.api_alone import launch_alone
from trainer.events import Emitter, Event, decode


def launched(**values: Any) -> list[Event]:
    """Begin a run that was launched with these options; its events come into the list that is returned."""
    events: list[Event] = []

    def write(line: str) -> None:
        event = decode(line.rstrip("\n"))
        assert event is not None
        events.append(event)

    run = launch_alone()
    run.options = dataclasses.replace(run.options, **values)
    run.emitter = Emitter(0, write)
    launch.current = run
    return events


def samples(count: int = 70) -> TensorDataset:
    """Return samples of 6 features in 3 classes."""
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator))


def network(*further: nn.Module) -> nn.Sequential:
    """Return a small model for them, always with the same parameters."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), *further, nn.ReLU(), nn.Linear(16, 3))


def weights(model: nn.Module) -> Tensor:
    """Return everything a model consists of as one vector."""
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])
