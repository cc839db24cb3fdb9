"""A small convolutional network for 32x32 images: 0.62 million parameters."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.workloads.layers import SampleDropout, group_norm


class SimpleCnn(nn.Module):
    """Three convolutions with group norm and pooling, then two linear layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), group_norm(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), group_norm(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), group_norm(128), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128 * 4 * 4, 256), nn.ReLU(),
        )  # fmt: skip
        self.dropout = SampleDropout(0.1, layer=0)
        self.head = nn.Linear(256, classes)

    def forward(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return logits of shape (samples, classes) for images of shape (samples, 3, 32, 32)."""
        logits: Tensor = self.head(self.dropout(self.features(images), keys))
        return logits
