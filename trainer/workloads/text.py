"""Text as bytes: files of a folder, or synthetic text that can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from trainer.data import mix, mix_number, sample_keys, uniform
from trainer.errors import DataError

LENGTH: Final = 128
"""Tokens of one sample."""
VOCABULARY: Final = 256
MAX_BYTES: Final = 2 << 30

SYMBOLS: Final = 64
"""Different tokens of the synthetic text."""
SUCCESSOR_CHANCES: Final = (0.7, 0.15, 0.1, 0.05)
"""How often each of a token's four successors follows it: 0.92 nats of entropy a token."""


class SyntheticText:
    """A Markov chain over 64 tokens: whoever learns each token's four successors reaches a loss of 0.92."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._seed = seed
        symbols = torch.arange(SYMBOLS * len(SUCCESSOR_CHANCES), dtype=torch.int64)
        successors = mix(symbols + mix_number(seed, 10)) & (SYMBOLS - 1)
        self._successors = successors.view(SYMBOLS, len(SUCCESSOR_CHANCES))
        self._bounds = torch.tensor(SUCCESSOR_CHANCES).cumsum(0)[:-1].contiguous()

    def tokens(self, indices: Tensor) -> Tensor:
        """Return int64 tokens of shape (samples, LENGTH + 1)."""
        keys = sample_keys(indices, self._seed, 11)
        choices = torch.bucketize(uniform(keys[:, None] + torch.arange(LENGTH + 1), 12), self._bounds, right=True)
        columns = [keys & (SYMBOLS - 1)]
        for position in range(LENGTH):
            columns.append(self._successors[columns[-1], choices[:, position]])
        return torch.stack(columns, 1)


class TextFiles:
    """All ``*.txt`` files of a folder as one row of bytes, cut into samples that do not overlap."""

    def __init__(self, folder: Path) -> None:
        """Read the files below ``folder/text``, or ``folder`` itself, in the order of their names.

        Raises:
            DataError: there are none, or too little or too much text.
        """
        paths = text_files(folder)
        where = text_folder(folder)
        if not paths:
            raise DataError(f"no *.txt files below {where}", next_step="put plain text files there")
        total = sum(path.stat().st_size for path in paths)
        if not 2 * LENGTH < total <= MAX_BYTES:
            raise DataError(
                f"{total} bytes of text below {where}", next_step=f"{2 * LENGTH + 1} bytes to 2 GiB will do"
            )
        content = bytearray(b"".join(path.read_bytes() for path in paths))
        self._bytes = torch.frombuffer(content, dtype=torch.uint8)
        self.size = (len(content) - 1) // LENGTH

    def tokens(self, indices: Tensor) -> Tensor:
        """Return int64 tokens of shape (samples, LENGTH + 1)."""
        positions = indices[:, None] * LENGTH + torch.arange(LENGTH + 1)
        return self._bytes[positions].to(torch.int64)


def text_files(folder: Path) -> list[Path]:
    """Return the ``*.txt`` files below ``folder/text``, or ``folder`` itself, in the order of their names."""
    return sorted(text_folder(folder).rglob("*.txt"))


def text_folder(folder: Path) -> Path:
    """Return where in a data folder text is looked for."""
    return folder / "text" if (folder / "text").is_dir() else folder
