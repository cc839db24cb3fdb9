"""What the training loop needs of a model and its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples, ready for the model."""

    inputs: Tensor
    """First dimension: samples."""
    targets: Tensor
    keys: Tensor
    """int64 of shape (samples,): the source of all randomness in the model, the same on whichever rank."""
    units: int
    """What the loss is the mean over: samples, or the tokens that count."""

    def to(self, device: str) -> Batch:
        """Copy to a device."""
        if device == "cpu":
            return self
        return Batch(
            self.inputs.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.keys.to(device, non_blocking=True),
            self.units,
        )

    def piece(self, start: int, end: int, units: int) -> Batch:
        """Return samples ``start … end-1``, which hold ``units`` units."""
        return Batch(self.inputs[start:end], self.targets[start:end], self.keys[start:end], units)


class Source(Protocol):
    """A dataset: samples by index, from memory."""

    @property
    def size(self) -> int:
        """Number of samples."""
        ...

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """Return the samples ``indices`` (int64, on the CPU); ``keys`` decide about augmentation."""
        ...


class Workload(Protocol):
    """A model with the loss to minimise."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def source(self) -> Source: ...

    @property
    def units_per_sample(self) -> float:
        """About how many units of the loss one sample has: keeps gradients in the range of small floats."""
        ...

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sum (not the mean) of the losses of all units, and how many units were predicted right.

        Both are scalars on the model's device; only the first has a gradient.
        """
        ...
