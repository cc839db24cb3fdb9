"""How many bytes of gradients the built-in models exchange in a step, known before anybody has torch.

A test holds the table to the models themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class GradientBytes:
    """Bytes that each rank puts into the collectives of one step."""

    exact: int
    """float32 gradients."""
    powersgd: int
    """Low-rank gradients at the default rank."""


_SIZES: Final = {
    ("simple_cnn", 10): GradientBytes(2_483_240, 62_712),
    ("simple_cnn", 100): GradientBytes(2_575_760, 64_512),
    ("resnet18", 10): GradientBytes(44_695_848, 619_640),
    ("resnet18", 100): GradientBytes(44_880_528, 621_440),
    ("resnet50", 10): GradientBytes(94_083_368, 1_514_616),
    ("resnet50", 100): GradientBytes(94_821_008, 1_516_416),
    ("gpt_small", 0): GradientBytes(13_295_616, 341_008),
    ("bert_small", 0): GradientBytes(13_295_616, 341_008),
}


def gradient_bytes(workload: str, dataset: str) -> GradientBytes | None:
    """Return the bytes of a built-in model on a dataset, or None for a model that is not built in."""
    classes = 100 if dataset == "cifar100" else 10
    return _SIZES.get((workload, classes)) or _SIZES.get((workload, 0))
