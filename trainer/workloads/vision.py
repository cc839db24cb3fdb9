"""Image classification."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from trainer.errors import UsageError
from trainer.workloads.base import Batch, Source
from trainer.workloads.cnn import SimpleCnn
from trainer.workloads.resnet import ResNet


def image_model(name: str, classes: int) -> nn.Module:
    """Build an image model by its name, with parameters drawn from torch's global generator.

    Raises:
        UsageError: there is no such model.
    """
    match name:
        case "simple_cnn":
            return SimpleCnn(classes)
        case "resnet18":
            return ResNet((2, 2, 2, 2), bottleneck=False, classes=classes)
        case "resnet50":
            return ResNet((3, 4, 6, 3), bottleneck=True, classes=classes)
        case _:
            raise UsageError(f"no image model {name}")


class ImageWorkload:
    """Cross entropy over classes; a unit of the loss is an image."""

    units_per_sample = 1.0

    def __init__(self, name: str, model: nn.Module, source: Source) -> None:
        self.name = name
        self.model = model
        self.source = source

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.model(batch.inputs, batch.keys)
        correct = (logits.detach().argmax(1) == batch.targets).sum()
        return functional.cross_entropy(logits, batch.targets, reduction="sum"), correct
