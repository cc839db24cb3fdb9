"""One rank's model on its device: forward and backward over its part of a batch, and the optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from trainer.data import sample_keys
from trainer.errors import GroupBroken
from trainer.options import Options
from trainer.reduction import FlatModel
from trainer.speed import synchronize
from trainer.workloads.base import Workload

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


class Learner:
    """Computes gradients into a :class:`FlatModel` and applies the reduced ones."""

    def __init__(
        self, workload: Workload, options: Options, *, device: str, world_size: int, simulated_samples_per_second: float
    ) -> None:
        """Move the workload's model to ``device``."""
        self.workload = workload
        self.device = device
        self._device_type = device.partition(":")[0]
        self.simulated_samples_per_second = simulated_samples_per_second
        self._seed = options.seed
        self._options = options
        self.flat = FlatModel(workload.model.to(device), world_size)
        self._buffers = [buffer for buffer in workload.model.buffers() if buffer.is_floating_point()]
        self.optimizer = _optimizer(self.flat.parameters, options)
        self._scaler = torch.amp.GradScaler(self._device_type, enabled=options.precision == "fp16")
        if options.compile:
            workload.model.compile(dynamic=True)

    def compute(
        self, indices: Tensor, step: int, micro_batch: int, nominal: float, is_broken: Callable[[], bool]
    ) -> Computed:
        """Add the gradients of the losses of ``indices``, divided by ``nominal``, to the flat buffer.

        The share is computed in pieces of ``micro_batch`` samples. The buffer must be zero beforehand.

        Raises:
            GroupBroken: ``is_broken`` said between two pieces that the result is not needed any more.
        """
        begin = time.perf_counter()
        data_seconds, units, samples = 0.0, 0, len(indices)
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for start in range(0, samples, micro_batch):
            if is_broken():
                raise GroupBroken("the group was given up during the computation")
            before = time.perf_counter()
            piece = indices[start : start + micro_batch]
            batch = self.workload.source.batch(piece, sample_keys(piece, self._seed, step)).to(self.device)
            data_seconds += time.perf_counter() - before
            with self._autocast():
                piece_loss, piece_correct = self.workload.loss(batch)
            torch.autograd.backward(self._scaler.scale(piece_loss / nominal))
            loss += piece_loss.detach()
            correct += piece_correct
            units += batch.units
        synchronize(self.device)
        self._hold_down(samples, begin, is_broken)
        elapsed = time.perf_counter() - begin
        return Computed(samples, units, loss.item(), int(correct.item()), data_seconds, elapsed - data_seconds)

    def apply(self, factor: float, learning_rate: float) -> None:
        """Multiply the reduced gradient by ``factor`` and do one optimizer step. Identical on every rank."""
        if factor != 1.0:
            self.flat.gradient.mul_(factor)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def probe(self, samples: int) -> None:
        """Do what one micro-batch of ``samples`` costs, and leave parameters and gradients as they were."""
        indices = torch.arange(samples, dtype=torch.int64) % self.workload.source.size
        held, self.simulated_samples_per_second = self.simulated_samples_per_second, math.inf
        try:
            self.compute(indices, 0, samples, float(samples), lambda: False)
        finally:
            self.simulated_samples_per_second = held
            self.flat.zero()

    def prepare_optimizer(self) -> None:
        """Create the optimizer's state, so that every rank has it, also one that has no share of the first steps."""
        self.flat.zero()
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.optimizer.step()
        for value in self.optimizer.state[self.flat.parameters].values():
            if isinstance(value, Tensor) and value.dim() == 0:
                value.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything a rank must take over to go on from here, by name. The tensors are not copies."""
        found = {"parameters": self.flat.parameters.data}
        found |= {f"buffer.{position}": buffer for position, buffer in enumerate(self._buffers)}
        for name, value in self.optimizer.state[self.flat.parameters].items():
            if isinstance(value, Tensor):
                found[f"optimizer.{name}"] = value
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` returned on another rank or in an earlier run.

        Raises:
            ValueError: the tensors are those of another model.
        """
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

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the loss scaling; empty without fp16."""
        return dict(self._scaler.state_dict())

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`scaler_state` returned."""
        if state:
            self._scaler.load_state_dict(dict(state))

    def _autocast(self) -> AbstractContextManager[object]:
        if self._options.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self._options.precision == "bf16" else torch.float16
        return torch.autocast(self._device_type, dtype=dtype)

    def _hold_down(self, samples: int, begin: float, is_broken: Callable[[], bool]) -> None:
        """Sleep until ``samples`` would have taken as long at the simulated speed."""
        until = begin + samples / self.simulated_samples_per_second
        while (left := until - time.perf_counter()) > 0:
            if is_broken():
                raise GroupBroken("the group was given up during the computation")
            time.sleep(min(left, BROKEN_LOOK_SECONDS))


def _optimizer(parameters: torch.nn.Parameter, options: Options) -> torch.optim.Optimizer:
    rate, decay = options.chosen_learning_rate, options.weight_decay
    if options.chosen_optimizer == "adamw":
        return torch.optim.AdamW([parameters], lr=rate, weight_decay=decay)
    return torch.optim.SGD([parameters], lr=rate, momentum=options.momentum, weight_decay=decay)
