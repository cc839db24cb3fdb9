"""Layers whose result does not depend on how a batch was split over ranks and micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.data import mix


class SampleDropout(nn.Module):
    """Dropout that draws its mask from each sample's key instead of a shared generator.

    The mask of a sample is a hash of (key, layer, position), so the sample loses the same features whichever rank
    computes it and whatever else is in its micro-batch.
    """

    def __init__(self, probability: float, layer: int) -> None:
        """``layer`` tells the dropout layers of one model apart."""
        super().__init__()
        self.probability = probability
        self.layer = layer

    def forward(self, features: Tensor, keys: Tensor) -> Tensor:
        """Drop features of shape (samples, …); ``keys`` is int64 of shape (samples,)."""
        if not self.training or self.probability == 0:
            return features
        return sample_dropout(features, keys, self.probability, self.layer)


def sample_dropout(features: Tensor, keys: Tensor, probability: float, layer: int) -> Tensor:
    """Drop features of shape (samples, …) by the samples' ``keys`` and scale up what is left."""
    if probability >= 1:
        return torch.zeros_like(features)
    flat = features.flatten(1)
    positions = torch.arange(flat.shape[1], device=features.device, dtype=torch.int64)
    bits = mix(keys[:, None] + mix(positions + (layer << 40))[None, :])
    kept = ((bits >> 40) & ((1 << 24) - 1)) >= int(probability * (1 << 24))
    return (flat * kept.to(flat.dtype) / (1 - probability)).view_as(features)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the normalisation used instead of batch norm.

    Batch norm's statistics depend on who shares a micro-batch, so unequal shares would change the gradient. Group norm
    (Wu & He, "Group Normalization", ECCV 2018) looks at one sample at a time.
    """
    return nn.GroupNorm(min(32, channels // 4), channels)
