"""Dropout whose masks are seeded by sample and step, in a model that was not written for it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from trainer.workloads.layers import sample_dropout

CALLS_OF_A_LAYER = 1 << 10


class SeededDropout:
    """Lets every ``nn.Dropout`` of a model draw its masks from the keys of the samples that are computed.

    A layer whose input does not have one row for each sample, such as a sequence-first tensor, keeps torch's own
    random numbers, which depend on who computes what.
    """

    def __init__(self, model: nn.Module) -> None:
        self._keys = torch.empty(0, dtype=torch.int64)
        self._calls: dict[int, int] = {}
        layers = [module for module in model.modules() if type(module) is nn.Dropout]
        for layer, module in enumerate(layers):
            module.forward = functools.partial(self._forward, module, layer)  # type: ignore[method-assign]

    def begin(self, keys: Tensor) -> None:
        """The samples with these keys, int64 of shape (samples,) on the model's device, are computed next."""
        self._keys = keys
        self._calls.clear()

    def _forward(self, module: nn.Dropout, layer: int, features: Tensor) -> Tensor:
        if not module.training or module.p == 0:
            return features
        if features.dim() < 2 or len(features) != len(self._keys):
            return nn.functional.dropout(features, module.p, training=True)
        call = self._calls.get(layer, 0)
        self._calls[layer] = call + 1
        return sample_dropout(features, self._keys, module.p, layer * CALLS_OF_A_LAYER + call)
