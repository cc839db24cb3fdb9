"""One rank's model on its device: forward and backward over its part of a batch, and the optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from trainer.data import piece_sizes, sample_keys
from trainer.errors import GroupBroken
from trainer.options import Options, Precision
from trainer.prefetch import Order, make_batches
from trainer.reduction import FlatModel
from trainer.speed import synchronize
from trainer.workloads.base import Batch, Workload

BROKEN_LOOK_SECONDS: Final = 0.005
"""How often a simulated rank looks, while it sleeps, whether its group still stands."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What this rank did of one step, before anything was exchanged."""

    samples: int
    units: int
    loss: float
    """Sum over units."""
    correct: int
    data_seconds: float
    compute_seconds: float
    """Forward and backward, and the sleep of a simulated rank."""


class LearnerProtocol(Protocol):
    """What the training loop needs of a rank's model, whoever wrote the forward pass."""

    flat: FlatModel
    simulated_samples_per_second: float
    """The speed this rank is held down to by sleeping; infinity: as fast as it can."""

    @property
    def units_per_sample(self) -> float:
        """About how many units of the loss one sample has: keeps gradients in the range of small floats."""
        ...

    def compute(
        self, indices: Tensor, step: int, micro_batch: int, nominal: float, is_broken: Callable[[], bool]
    ) -> Computed:
        """Add the gradients of the losses of ``indices``, divided by ``nominal``, to the flat buffer.

        The share is computed in pieces of ``micro_batch`` samples. The buffer must be zero beforehand.

        Raises:
            GroupBroken: ``is_broken`` said between two pieces that the result is not needed any more.
        """
        ...

    def announce(self, indices: Tensor, step: int, micro_batch: int) -> None:
        """Tell what :meth:`compute` will most likely be asked for next, so that its data can be fetched meanwhile."""
        ...

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        ...

    def apply(self, factor: float, learning_rate: float) -> None:
        """Multiply the reduced gradient by ``factor`` and do one optimizer step. Identical on every rank."""
        ...

    def probe(self, samples: int) -> None:
        """Do what one micro-batch of ``samples`` costs, and leave parameters and gradients as they were."""
        ...

    def prepare_optimizer(self) -> None:
        """Create the optimizer's state, so that every rank has it, also one that has no share of the first steps."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return everything a rank must take over to go on from here, by name. Not to be kept: they may be views."""
        ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` returned on another rank or in an earlier run.

        Raises:
            ValueError: the tensors are those of another model.
        """
        ...

    def extra_state(self) -> dict[str, Any]:
        """Return what else there is to take over, as JSON values: the loss scaling, a schedule."""
        ...

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`extra_state` returned."""
        ...

    def model_state(self) -> dict[str, Tensor]:
        """Return the model's ordinary ``state_dict``, for checkpoints."""
        ...


class Learner:
    """Computes gradients of a built-in workload into a :class:`FlatModel` and applies the reduced ones."""

    def __init__(
        self, workload: Workload, options: Options, *, device: str, world_size: int, simulated_samples_per_second: float
    ) -> None:
        """Move the workload's model to ``device``."""
        self.workload = workload
        self.device = device
        self.simulated_samples_per_second = simulated_samples_per_second
        self._seed = options.seed
        self._options = options
        self.flat = FlatModel(workload.model.to(device), world_size)
        self._buffers = [buffer for buffer in workload.model.buffers() if buffer.is_floating_point()]
        self.optimizer = _optimizer(self.flat.parameters, options)
        self._scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=options.precision == "fp16")
        self._batches = make_batches(self._fetch, device)
        if options.compile:
            workload.model.compile(dynamic=True)

    @property
    def units_per_sample(self) -> float:
        return self.workload.units_per_sample

    def compute(
        self, indices: Tensor, step: int, micro_batch: int, nominal: float, is_broken: Callable[[], bool]
    ) -> Computed:
        begin = time.perf_counter()
        data_seconds, units, samples = 0.0, 0, len(indices)
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for order in self._batches.queue(indices, step, piece_sizes(samples, micro_batch, whole=False)):
            if is_broken():
                raise GroupBroken("the group was given up during the computation")
            before = time.perf_counter()
            batch = self._batches.take(order).to(self.device)
            data_seconds += time.perf_counter() - before
            with autocast(self.device, self._options.precision):
                piece_loss, piece_correct = self.workload.loss(batch)
            torch.autograd.backward(self._scaler.scale(piece_loss / nominal))
            loss += piece_loss.detach()
            correct += piece_correct
            units += batch.units
        synchronize(self.device)
        hold_down(samples, begin, self.simulated_samples_per_second, is_broken)
        elapsed = time.perf_counter() - begin
        return Computed(samples, units, loss.item(), int(correct.item()), data_seconds, elapsed - data_seconds)

    def announce(self, indices: Tensor, step: int, micro_batch: int) -> None:
        self._batches.queue(indices, step, piece_sizes(len(indices), micro_batch, whole=False))

    def learning_rate(self, step: int) -> float:
        rate, warmup = self._options.chosen_learning_rate, self._options.warmup_steps
        return rate * (step + 1) / (warmup + 1) if step < warmup else rate

    def apply(self, factor: float, learning_rate: float) -> None:
        if factor != 1.0:
            self.flat.gradient.mul_(factor)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def probe(self, samples: int) -> None:
        indices = torch.arange(samples, dtype=torch.int64) % self.workload.source.size
        held, self.simulated_samples_per_second = self.simulated_samples_per_second, math.inf
        try:
            self.compute(indices, 0, samples, float(samples), lambda: False)
        finally:
            self.simulated_samples_per_second = held
            self.flat.zero()

    def prepare_optimizer(self) -> None:
        self.flat.zero()
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.optimizer.step()
        for value in self.optimizer.state[self.flat.parameters].values():
            if isinstance(value, Tensor) and value.dim() == 0:
                value.zero_()

    def tensors(self) -> dict[str, Tensor]:
        found = {"parameters": self.flat.parameters.data}
        found |= {f"buffer.{position}": buffer for position, buffer in enumerate(self._buffers)}
        for name, value in self.optimizer.state[self.flat.parameters].items():
            if isinstance(value, Tensor):
                found[f"optimizer.{name}"] = value
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = tensors.get("parameters")
        if parameters is None or parameters.shape != self.flat.parameters.shape:
            raise ValueError(f"not the parameters of this model, which has {self.flat.size}")
        self.flat.parameters.data.copy_(parameters)
        for position, buffer in enumerate(self._buffers):
            buffer.copy_(tensors[f"buffer.{position}"])
        state: dict[str, Any] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                # Adam counts its steps in a tensor that stays on the CPU.
                device = "cpu" if value.dim() == 0 else self.device
                state[name.removeprefix("optimizer.")] = value.to(device, copy=True)
        self.optimizer.state[self.flat.parameters] = state

    def extra_state(self) -> dict[str, Any]:
        return dict(self._scaler.state_dict())

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        if state:
            self._scaler.load_state_dict(dict(state))

    def model_state(self) -> dict[str, Tensor]:
        return self.workload.model.state_dict()

    def _fetch(self, order: Order) -> Batch:
        return self.workload.source.batch(order.indices, sample_keys(order.indices, self._seed, order.step))


def hold_down(samples: int, begin: float, samples_per_second: float, is_broken: Callable[[], bool]) -> None:
    """Sleep until ``samples``, begun at ``begin``, would have taken as long at a simulated speed.

    Raises:
        GroupBroken: ``is_broken`` said that the result is not needed any more.
    """
    until = begin + samples / samples_per_second
    while (left := until - time.perf_counter()) > 0:
        if is_broken():
            raise GroupBroken("the group was given up during the computation")
        time.sleep(min(left, BROKEN_LOOK_SECONDS))


def autocast(device: str, precision: Precision) -> AbstractContextManager[object]:
    """Return the context of a forward pass in ``precision``; it does nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def _optimizer(parameters: torch.nn.Parameter, options: Options) -> torch.optim.Optimizer:
    rate, decay = options.chosen_learning_rate, options.weight_decay
    if options.chosen_optimizer == "adamw":
        return torch.optim.AdamW([parameters], lr=rate, weight_decay=decay)
    return torch.optim.SGD([parameters], lr=rate, momentum=options.momentum, weight_decay=decay)
