"""A user's model and loop as a learner: the forward and backward passes are made by the loop in the script."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainer.api_data import to_device
from trainer.api_dropout import SeededDropout
from trainer.api_norm import RunningStatistics
from trainer.api_optimizer import ScriptOptimizer
from trainer.api_turns import Piece, Turns
from trainer.data import piece_sizes, sample_keys
from trainer.errors import GroupBroken, UsageError
from trainer.learner import Computed, hold_down
from trainer.prefetch import Batches, Order
from trainer.reduction import FlatModel
from trainer.speed import synchronize

USABLE_MEMORY: Final = 0.85
"""Memory is lost to pieces that are too small; so much of it can be planned with."""


class ScriptLearner:
    """Has micro-batches computed by the user's loop, and does the rest of a step."""

    units_per_sample = 1.0

    def __init__(
        self,
        flat: FlatModel,
        optimizer: ScriptOptimizer,
        batches: Batches[Any],
        turns: Turns,
        *,
        device: str,
        seed: int,
        dataset_size: int,
        ghost_batch: int,
        statistics: RunningStatistics,
        dropout: SeededDropout | None,
        simulated_samples_per_second: float,
    ) -> None:
        """``flat`` holds the model, on ``device``; its further sums are those of ``statistics``."""
        self.flat = flat
        self.simulated_samples_per_second = simulated_samples_per_second
        self._optimizer = optimizer
        self._batches = batches
        self._turns = turns
        self._device = device
        self._seed = seed
        self._dataset_size = dataset_size
        self._ghost_batch = ghost_batch
        self._statistics = statistics
        self._dropout = dropout
        self._buffers = list(flat.model.buffers())
        self._received: Mapping[str, Tensor] = {}
        self._measuring = False
        self._peaks: dict[int, int] = {}
        """Accelerator memory at most in use while a micro-batch of so many samples was measured."""
        self._trained = [parameter for parameter in flat.model.parameters() if parameter.requires_grad]
        self._gradients = [parameter.grad for parameter in self._trained]

    def compute(
        self, indices: Tensor, step: int, micro_batch: int, nominal: float, is_broken: Callable[[], bool]
    ) -> Computed:
        begin = time.perf_counter()
        data_seconds, units, correct = 0.0, 0, 0
        losses: list[Tensor] = []
        self._statistics.begin()
        try:
            for order in self._batches.queue(indices, step, self._sizes(len(indices), micro_batch)):
                if is_broken():
                    raise GroupBroken("the group was given up during the computation")
                before = time.perf_counter()
                batch = to_device(self._batches.take(order), self._device)
                data_seconds += time.perf_counter() - before
                piece = self._computed(order, batch, nominal)
                units, correct = units + piece.units, correct + piece.correct
                losses += piece.losses
            synchronize(self._device)
        finally:
            self._statistics.finish(self.flat.further_sums)
        hold_down(len(indices), begin, self.simulated_samples_per_second, is_broken)
        elapsed = time.perf_counter() - begin
        loss = math.fsum(torch.stack(losses).tolist()) if losses else 0.0
        return Computed(len(indices), units, loss, correct, data_seconds, elapsed - data_seconds)

    def _computed(self, order: Order, batch: Any, nominal: float) -> Piece:
        """Let the user's loop compute a micro-batch."""
        samples = len(order.indices)
        if self._dropout is not None:
            self._dropout.begin(sample_keys(order.indices, self._seed, order.step).to(self._device))
        piece = Piece(batch, samples, order.step, nominal, self._measuring)
        self._turns.offer(piece)
        self._statistics.add(samples)
        if not piece.has_gradient:
            raise UsageError(
                "the loop did not call run.backward(loss) for a micro-batch",
                next_step="call it in place of loss.backward(), once for every micro-batch",
            )
        if any(now.grad is not kept for now, kept in zip(self._trained, self._gradients, strict=True)):
            raise UsageError(
                "the loop replaced the model's gradients",
                next_step="leave model.zero_grad() out; optimizer.zero_grad() may stay",
            )
        return piece

    def announce(self, indices: Tensor, step: int, micro_batch: int) -> None:
        self._batches.queue(indices, step, self._sizes(len(indices), micro_batch))

    def learning_rate(self, step: int) -> float:  # noqa: ARG002 - the optimizer and its schedule know
        return self._optimizer.learning_rate

    def apply(self, factor: float, learning_rate: float) -> None:  # noqa: ARG002 - the optimizer's own is used
        if factor != 1.0:
            self.flat.gradient.mul_(factor)
        self._optimizer.apply()
        self._statistics.apply(self.flat.further_sums)

    def probe(self, samples: int) -> None:
        self._check_memory(samples)
        indices = torch.arange(samples, dtype=torch.int64) % self._dataset_size
        held, self.simulated_samples_per_second = self.simulated_samples_per_second, math.inf
        self._measuring = True
        before = [buffer.clone() for buffer in self._buffers]
        try:
            self.compute(indices, 0, samples, float(samples), lambda: False)
        finally:
            self._measuring = False
            self.simulated_samples_per_second = held
            self.flat.zero()
            for buffer, value in zip(self._buffers, before, strict=True):
                buffer.copy_(value)
        if self._device.startswith("cuda"):
            self._peaks[samples] = torch.cuda.max_memory_allocated()

    def _check_memory(self, samples: int) -> None:
        """Refuse a micro-batch that will not fit: running out inside the user's loop would end the script."""
        if not self._device.startswith("cuda"):
            return
        free, _ = torch.cuda.mem_get_info()
        if expected_bytes(self._peaks, samples) > USABLE_MEMORY * (free + torch.cuda.memory_reserved()):
            raise torch.OutOfMemoryError(f"a micro-batch of {samples} samples is expected to run out of memory")

    def prepare_optimizer(self) -> None:
        self._optimizer.prepare_state()

    def tensors(self) -> dict[str, Tensor]:
        found = {"parameters": self.flat.parameters.data, **self._optimizer.tensors()}
        return found | {f"buffer.{position}": buffer for position, buffer in enumerate(self._buffers)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = tensors.get("parameters")
        if parameters is None or parameters.shape != self.flat.parameters.shape:
            raise ValueError(f"not the parameters of this model, which has {self.flat.size}")
        self.flat.parameters.data.copy_(parameters)
        for position, buffer in enumerate(self._buffers):
            buffer.copy_(tensors[f"buffer.{position}"])
        self._received = tensors
        if tensors.keys() == self.tensors().keys():
            self._optimizer.load_extra_state(self.extra_state(), tensors)

    def extra_state(self) -> dict[str, Any]:
        return self._optimizer.extra_state()

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_extra_state(state, self._received)
        self._received = {}

    def model_state(self) -> dict[str, Tensor]:
        return self.flat.model.state_dict()

    def _sizes(self, samples: int, micro_batch: int) -> list[int]:
        return piece_sizes(samples, self._ghost_batch or micro_batch, whole=self._ghost_batch > 0)


def expected_bytes(peaks: Mapping[int, int], samples: int) -> float:
    """Return the memory a micro-batch will need, from what smaller ones needed: the line through the last two."""
    known = sorted(peaks.items())
    if not known:
        return 0.0
    size, peak = known[-1]
    before, less = known[-2] if len(known) > 1 else (0, 0)
    return peak + max(0, samples - size) * max(0, peak - less) / (size - before)


def gradient_model(model: nn.Module, world_size: int, statistics: RunningStatistics) -> FlatModel:
    """Move a model's parameters and gradients into flat buffers.

    Raises:
        UsageError: it has nothing to train, or parameters of another type than float32.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("trainer.prepare: the model has no parameter that is trained")
    try:
        return FlatModel(model, world_size, statistics.length)
    except ValueError as error:
        raise UsageError(f"trainer.prepare: {error}") from error
