"""Image datasets: synthetic ones that can be learned, and CIFAR from a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as functional
from torch import Tensor

from trainer.data import mix, mix_number, uniform
from trainer.errors import DataError
from trainer.workloads.base import Batch

SIDE: Final = 32
NOISE_BANK: Final = 1024


class SyntheticImages:
    """Ten smooth patterns under noise: 3x32x32 float32 images that a small network learns within an epoch.

    Image ``i`` is the pattern of its class, scaled by a random contrast, plus the sum of two noise images picked by
    a hash of ``i``: any number of images without storing them, the same on every rank. The contrast goes down to
    nothing, so some images cannot be told apart and the loss never reaches zero.
    """

    classes: Final = 10

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._seed = seed
        generator = torch.Generator().manual_seed(mix_number(seed, 1) & ((1 << 63) - 1))
        coarse = torch.randn(self.classes, 3, 4, 4, generator=generator)
        self._patterns = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        self._noise = torch.randn(NOISE_BANK, 3, SIDE, SIDE, generator=generator)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """Return images of shape (samples, 3, 32, 32) and their classes."""
        bits = mix(indices * 2 + mix_number(self._seed, 2))
        targets = (bits & 0xFFFF) % self.classes
        first, second = (bits >> 16) & (NOISE_BANK - 1), (bits >> 28) & (NOISE_BANK - 1)
        contrast = 0.6 * uniform(bits, 3)
        images = self._patterns[targets] * contrast[:, None, None, None]
        images = images + self._noise[first] + self._noise[second].flip(3)
        return Batch(images, targets, keys, len(indices))


class Cifar:
    """CIFAR-10 or CIFAR-100 from its *binary* files, with the usual crop and flip.

    The binary version (``cifar-10-binary.tar.gz``, https://www.cs.toronto.edu/~kriz/cifar.html) is rows of one or two
    label bytes and 3 072 pixel bytes. The Python version is pickles, which can run code, so it is not read.
    """

    def __init__(self, folder: Path, classes: int) -> None:
        """Read the training images below ``folder``.

        Raises:
            DataError: the files are not there or have the wrong size.
        """
        self.classes = classes
        rows = torch.cat([_rows(path, classes) for path in _existing_files(folder, classes)])
        self._targets = rows[:, 0 if classes == 10 else 1].to(torch.int64)
        self._images = rows[:, 1 if classes == 10 else 2 :].reshape(-1, 3, SIDE, SIDE).contiguous()
        self.size = len(rows)
        self._mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
        self._deviation = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """Return images of shape (samples, 3, 32, 32), shifted by up to 4 pixels and flipped by their keys."""
        images = (self._images[indices].to(torch.float32) / 255 - self._mean) / self._deviation
        flipped = uniform(keys, 1) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        down, right = (uniform(keys, 2) * 9).to(torch.int64), (uniform(keys, 3) * 9).to(torch.int64)
        rows = down[:, None] + torch.arange(SIDE)
        columns = right[:, None] + torch.arange(SIDE)
        padded = functional.pad(images, (4, 4, 4, 4))
        samples = torch.arange(len(indices))[:, None, None, None]
        channels = torch.arange(3)[None, :, None, None]
        images = padded[samples, channels, rows[:, None, :, None], columns[:, None, None, :]]
        return Batch(images, self._targets[indices], keys, len(indices))


def cifar_files(folder: Path, classes: int) -> list[Path]:
    """Return the files with the training images, in the folder the archive has them in or directly in ``folder``.

    Empty where one is missing.
    """
    names, inner = _names(classes)
    for place in (folder / inner, folder):
        if all((place / name).is_file() for name in names):
            return [place / name for name in names]
    return []


def _names(classes: int) -> tuple[list[str], str]:
    if classes == 10:
        return [f"data_batch_{number}.bin" for number in range(1, 6)], "cifar-10-batches-bin"
    return ["train.bin"], "cifar-100-binary"


def _existing_files(folder: Path, classes: int) -> list[Path]:
    if found := cifar_files(folder, classes):
        return found
    names, inner = _names(classes)
    archive = "cifar-10-binary.tar.gz" if classes == 10 else "cifar-100-binary.tar.gz"
    raise DataError(
        f"no {', '.join(names)} in {folder / inner} or {folder}",
        next_step=f"unpack {archive} from https://www.cs.toronto.edu/~kriz/cifar.html there (the binary version)",
    )


def _rows(path: Path, classes: int) -> Tensor:
    width = 3 * SIDE * SIDE + (1 if classes == 10 else 2)
    content = bytearray(path.read_bytes())
    if not content or len(content) % width:
        raise DataError(
            f"{path} has {len(content)} bytes, not a multiple of {width}", next_step="the download is broken: repeat it"
        )
    rows = torch.frombuffer(content, dtype=torch.uint8).reshape(-1, width)
    if int(rows[:, 0 if classes == 10 else 1].max()) >= classes:
        raise DataError(f"{path} holds a label above {classes - 1}", next_step="it is not the binary version of CIFAR")
    return rows
