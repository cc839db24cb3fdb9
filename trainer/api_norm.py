"""Batch norm with unequal shares: what it normalises over, and its running statistics.

Batch norm's output depends on which samples are normalised together. Whatever the shares are, those are always the
same here: *ghost batches* of a fixed size (Hoffer, Hubara, Soudry: "Train longer, generalize better", NeurIPS 2017),
cut from the global batch and dealt out whole. Gradients are then those of one machine that computes the same ghost
batches, within rounding.

The running mean and variance follow the average over all ghost batches of a step, weighted with their samples. The
sums travel with the gradients, so every rank has the same statistics after every step:

    running = (1 - momentum) * running + momentum * sum(samples * statistic) / sum(samples)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.errors import UsageError


def has_batch_norm(model: nn.Module) -> bool:
    """Say whether the model normalises over the samples of a micro-batch.

    Raises:
        UsageError: it has ``SyncBatchNorm``, which wants equal steps on all ranks and does not know the CPU.
    """
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise UsageError(
            "trainer.prepare: the model has SyncBatchNorm", next_step="leave BatchNorm as it is, or use GroupNorm"
        )
    return any(isinstance(module, _BatchNorm) for module in model.modules())


class RunningStatistics:
    """The running statistics of all batch norms of a model, kept equal on all ranks."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]
        self._momenta = [module.momentum for module in self._modules]
        self._before: list[tuple[Tensor, ...]] = []
        self._sums = torch.zeros(self.length)

    @property
    def length(self) -> int:
        """Values that are summed over the ranks: all means and variances, and the samples."""
        return sum(2 * module.num_features for module in self._modules) + 1 if self._modules else 0

    def begin(self) -> None:
        """Note the statistics before a rank's part of a step; until :meth:`finish` modules hold single batches'."""
        self._before = [tuple(buffer.clone() for buffer in self._buffers(module)) for module in self._modules]
        self._sums = torch.zeros(self.length)
        for module in self._modules:
            module.momentum = 1.0

    def add(self, samples: int) -> None:
        """Take in the statistics that the ghost batch just computed has left in the modules."""
        if self._modules:
            now = torch.cat([torch.cat(self._buffers(module)[:2]) for module in self._modules]).cpu()
            self._sums[:-1] += samples * now
            self._sums[-1] += samples

    def finish(self, into: Tensor) -> None:
        """Put the modules back as they were, and write the sums of this rank."""
        for module, momentum, before in zip(self._modules, self._momenta, self._before, strict=True):
            module.momentum = momentum
            for buffer, value in zip(self._buffers(module), before, strict=True):
                buffer.copy_(value)
        if self._modules:
            into.copy_(self._sums)

    def apply(self, sums: Tensor) -> None:
        """Follow the sums over all ranks: one update a step."""
        if not self._modules or float(sums[-1]) == 0:
            return
        averages = sums[:-1] / sums[-1]
        offset = 0
        for module, momentum in zip(self._modules, self._momenta, strict=True):
            mean, variance, count = self._buffers(module)
            count += 1
            weight = 1 / float(count) if momentum is None else momentum
            for buffer in (mean, variance):
                average = averages[offset : offset + module.num_features]
                buffer.mul_(1 - weight).add_(average.to(buffer.device), alpha=weight)
                offset += module.num_features

    @staticmethod
    def _buffers(module: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
        assert module.running_mean is not None
        assert module.running_var is not None
        assert module.num_batches_tracked is not None
        return module.running_mean, module.running_var, module.num_batches_tracked
