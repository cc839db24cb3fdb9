"""The built-in models and datasets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from trainer.errors import UsageError
from trainer.options import Options
from trainer.workloads.base import Source, Workload

if TYPE_CHECKING:
    from trainer.workloads.images import Cifar

IMAGE_WORKLOADS = ("simple_cnn", "resnet18", "resnet50")


def build(options: Options, tell: Callable[[str], None] = lambda _text: None) -> Workload:
    """Build model and data on the CPU. The initial parameters depend only on the seed.

    A dataset that is not in the data folder is downloaded; ``tell`` takes a sentence about that.

    Raises:
        UsageError: the dataset does not fit the model.
        DataError: the dataset is not there or damaged.
    """
    torch.manual_seed(options.seed)
    if options.workload in IMAGE_WORKLOADS:
        return _image_workload(options, tell)
    return _text_workload(options, tell)


def _image_workload(options: Options, tell: Callable[[str], None]) -> Workload:
    from trainer.workloads.images import SyntheticImages
    from trainer.workloads.vision import ImageWorkload, image_model

    source: SyntheticImages | Cifar
    match options.dataset or "synthetic_images":
        case "synthetic_images":
            source = SyntheticImages(options.samples, options.seed)
        case "cifar10":
            source = _cifar(10, options, tell)
        case "cifar100":
            source = _cifar(100, options, tell)
        case other:
            raise UsageError(f"--dataset {other} has no images for --workload {options.workload}")
    return ImageWorkload(options.workload, image_model(options.workload, source.classes), source)


def _cifar(classes: int, options: Options, tell: Callable[[str], None]) -> Cifar:
    from trainer.download import CIFAR10, CIFAR100, fetch
    from trainer.workloads.images import Cifar, cifar_files

    if not cifar_files(options.data_dir, classes):
        fetch(CIFAR10 if classes == 10 else CIFAR100, options.data_dir, tell, allowed=options.download)
    return Cifar(options.data_dir, classes)


def _text_workload(options: Options, tell: Callable[[str], None]) -> Workload:
    from trainer.download import SHAKESPEARE, fetch
    from trainer.workloads.language import language_workload
    from trainer.workloads.text import SyntheticText, TextFiles, text_files, text_folder

    source: SyntheticText | TextFiles
    match options.dataset or "synthetic_text":
        case "synthetic_text":
            source = SyntheticText(options.samples, options.seed)
        case "text":
            if not text_files(options.data_dir):
                fetch(SHAKESPEARE, text_folder(options.data_dir), tell, allowed=options.download)
            source = TextFiles(options.data_dir)
        case other:
            raise UsageError(f"--dataset {other} has no text for --workload {options.workload}")
    return language_workload(options.workload, source)


__all__ = ["IMAGE_WORKLOADS", "Source", "Workload", "build"]
