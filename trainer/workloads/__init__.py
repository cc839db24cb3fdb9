"""The built-in models and datasets."""

from __future__ import annotations

import torch

from trainer.errors import UsageError
from trainer.options import Options
from trainer.workloads.base import Source, Workload

IMAGE_WORKLOADS = ("simple_cnn", "resnet18", "resnet50")


def build(options: Options) -> Workload:
    """Build model and data on the CPU. The initial parameters depend only on the seed.

    Raises:
        UsageError: the dataset does not fit the model.
        DataError: the dataset is not there or damaged.
    """
    torch.manual_seed(options.seed)
    if options.workload in IMAGE_WORKLOADS:
        return _image_workload(options)
    return _text_workload(options)


def _image_workload(options: Options) -> Workload:
    from trainer.workloads.images import Cifar, SyntheticImages
    from trainer.workloads.vision import ImageWorkload, image_model

    source: SyntheticImages | Cifar
    match options.dataset or "synthetic_images":
        case "synthetic_images":
            source = SyntheticImages(options.samples, options.seed)
        case "cifar10":
            source = Cifar(options.data_dir, 10)
        case "cifar100":
            source = Cifar(options.data_dir, 100)
        case other:
            raise UsageError(f"--dataset {other} has no images for --workload {options.workload}")
    return ImageWorkload(options.workload, image_model(options.workload, source.classes), source)


def _text_workload(options: Options) -> Workload:
    from trainer.workloads.language import language_workload
    from trainer.workloads.text import SyntheticText, TextFiles

    source: SyntheticText | TextFiles
    match options.dataset or "synthetic_text":
        case "synthetic_text":
            source = SyntheticText(options.samples, options.seed)
        case "text":
            source = TextFiles(options.data_dir)
        case other:
            raise UsageError(f"--dataset {other} has no text for --workload {options.workload}")
    return language_workload(options.workload, source)


__all__ = ["IMAGE_WORKLOADS", "Source", "Workload", "build"]
