"""ResNet-18 and ResNet-50 for small images, with group norm.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016; the first layer is the one for 32x32
images (a 3x3 convolution, no pooling). Batch norm is replaced: see :func:`trainer.workloads.layers.group_norm`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Tensor, nn

from trainer.workloads.layers import group_norm

STAGES: Final = (64, 128, 256, 512)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, group_norm(outputs))


class _Block(nn.Module):
    """A residual block: ``relu(body(x) + shortcut(x))``."""

    def __init__(self, body: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = body
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)
        self.activation = nn.ReLU()
        # Every block begins as the identity (Goyal et al. 2017, section 5.1): deep networks then learn at once.
        for norm in list(body.modules())[::-1]:
            if isinstance(norm, nn.GroupNorm):
                nn.init.zeros_(norm.weight)
                break

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.activation(self.body(features) + self.shortcut(features))
        return result


def _basic(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    body = nn.Sequential(_convolution(inputs, width, 3, stride), nn.ReLU(), _convolution(width, width, 3))
    return _Block(body, inputs, width, stride), width


def _bottleneck(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    outputs = 4 * width
    body = nn.Sequential(
        _convolution(inputs, width, 1),
        nn.ReLU(),
        _convolution(width, width, 3, stride),
        nn.ReLU(),
        _convolution(width, outputs, 1),
    )
    return _Block(body, inputs, outputs, stride), outputs


class ResNet(nn.Module):
    """A residual network for images of 32x32 pixels."""

    def __init__(self, depths: tuple[int, ...], *, bottleneck: bool, classes: int) -> None:
        """``depths`` is the number of blocks of each of the four stages."""
        super().__init__()
        make: Callable[[int, int, int], tuple[nn.Module, int]] = _bottleneck if bottleneck else _basic
        layers: list[nn.Module] = [_convolution(3, 64, 3), nn.ReLU()]
        channels = 64
        for stage, (width, depth) in enumerate(zip(STAGES, depths, strict=True)):
            for position in range(depth):
                block, channels = make(channels, width, 2 if stage > 0 and position == 0 else 1)
                layers.append(block)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, keys: Tensor) -> Tensor:  # noqa: ARG002 - no dropout in this network
        """Return logits of shape (samples, classes) for images of shape (samples, 3, 32, 32)."""
        logits: Tensor = self.head(self.features(images))
        return logits
