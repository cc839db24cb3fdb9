"""Which rank computes which sample, and randomness that does not depend on it.

One permutation of the dataset for each (seed, epoch). Step ``k`` of the epoch owns ``permutation[kB : (k+1)B]``, with
``B`` the global batch; the last step of an epoch owns what is left. Inside a step each rank takes the slice given by
the cumulative shares. So every sample is computed exactly once an epoch, whatever the shares were and however often
they, or the ranks, changed.

Random numbers for augmentation and dropout are a hash of (seed, step, sample): the same sample at the same step gets
the same numbers on whichever rank, in whichever micro-batch. The hash is the finalizer of SplitMix64 (Steele, Lea,
Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014), computed on 64-bit integers with wrap-around.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_MULTIPLY_1: Final = _signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2: Final = _signed(0x94D049BB133111EB)
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


def mix(values: Tensor) -> Tensor:
    """Hash each int64 of ``values``; the shape stays."""
    values = (values ^ ((values >> 30) & ((1 << 34) - 1))) * _MULTIPLY_1
    values = (values ^ ((values >> 27) & ((1 << 37) - 1))) * _MULTIPLY_2
    return values ^ ((values >> 31) & ((1 << 33) - 1))


def mix_number(*parts: int) -> int:
    """Hash whole numbers to one signed 64-bit number, by the same function as :func:`mix`."""
    state = 0
    for part in parts:
        state = (state + part + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return _signed(state)


def sample_keys(indices: Tensor, *parts: int) -> Tensor:
    """Return one int64 key for each sample of ``indices``, different for different ``parts`` such as seed and step."""
    return mix(indices * _signed(_GOLDEN) + mix_number(*parts))


def uniform(keys: Tensor, salt: int = 0) -> Tensor:
    """Return a float32 in [0, 1) for each key; another ``salt`` gives independent numbers."""
    bits = mix(keys + mix_number(salt))
    return ((bits >> 40) & ((1 << 24) - 1)).to(torch.float32) / (1 << 24)


class BalancedSampler:
    """The samples of each step. The same object on every rank; it holds no position of its own."""

    def __init__(
        self,
        size: int,
        global_batch: int,
        seed: int,
        *,
        ghost_batch: int = 0,
        drop_last: bool = False,
        order: Callable[[int], Tensor] | None = None,
    ) -> None:
        """Prepare to deal out the samples of a dataset.

        Args:
            size: Samples of the dataset, or entries of ``order``.
            global_batch: Samples of one step over all ranks.
            seed: With the epoch it decides about the order.
            ghost_batch: Deal whole pieces of so many samples, so that the pieces are the same for any shares; 0: deal
                single samples.
            drop_last: Leave out the last step of an epoch where it would be smaller than the others.
            order: Returns the dataset indices of an epoch, int64 of shape (size,); a random permutation by default.
        """
        self.size = size
        self.global_batch = min(global_batch, size)
        self.steps_per_epoch = size // self.global_batch if drop_last else -(-size // self.global_batch)
        self.ghost_batch = ghost_batch
        self._seed = seed
        self._epoch = -1
        self._order = order or self._permuted
        self._permutation = torch.empty(0, dtype=torch.int64)

    def epoch_of(self, step: int) -> int:
        """Return the epoch that ``step``, counted from 0 over the whole run, belongs to."""
        return step // self.steps_per_epoch

    def batch_size(self, step: int) -> int:
        """Return the samples of ``step``: the global batch, or less in the last step of an epoch."""
        return min(self.global_batch, self.size - (step % self.steps_per_epoch) * self.global_batch)

    def batch(self, step: int) -> Tensor:
        """Return the dataset indices of ``step``: int64, shape (batch_size(step),)."""
        epoch = self.epoch_of(step)
        if epoch != self._epoch:
            self._permutation = self._order(epoch)
            self._epoch = epoch
        start = (step % self.steps_per_epoch) * self.global_batch
        return self._permutation[start : start + self.batch_size(step)]

    def part(self, step: int, shares: Sequence[int], position: int) -> Tensor:
        """Return the indices that the member at ``position`` computes; ``shares`` add up to ``batch_size(step)``."""
        if sum(shares) != self.batch_size(step):
            raise ValueError(f"shares {tuple(shares)} do not add up to {self.batch_size(step)} samples")
        bounds = list(itertools.accumulate(self.dealt(shares), initial=0))
        return self.batch(step)[bounds[position] : bounds[position + 1]]

    def dealt(self, shares: Sequence[int]) -> tuple[int, ...]:
        """Return the shares as they are dealt out: as they are, or in whole ghost batches."""
        return whole_pieces(shares, self.ghost_batch) if self.ghost_batch else tuple(shares)

    def _permuted(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix_number(self._seed, epoch) & ((1 << 63) - 1))
        return torch.randperm(self.size, generator=generator)


def whole_pieces(shares: Sequence[int], piece: int) -> tuple[int, ...]:
    """Round shares to whole pieces, by largest remainders, without changing their sum.

    Their sum is cut into pieces of ``piece`` samples; the last one takes what is left over and has half a piece to
    one and a half. It belongs to the last rank that has any.
    """
    samples = sum(shares)
    pieces = max(1, (2 * samples + piece) // (2 * piece))
    given = [share * pieces // samples for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda rank: (-(shares[rank] * pieces % samples), rank))
    for rank in by_remainder[: pieces - sum(given)]:
        given[rank] += 1
    last = max(rank for rank, count in enumerate(given) if count)
    dealt = [count * piece for count in given]
    dealt[last] += samples - pieces * piece
    return tuple(dealt)


def piece_sizes(samples: int, piece: int, *, whole: bool) -> list[int]:
    """Return the sizes of the pieces a share is computed in, in order.

    With ``whole`` they are those that :func:`whole_pieces` dealt; otherwise the last piece is the smaller one.
    """
    full, rest = divmod(samples, piece)
    if whole and full and 0 < 2 * rest < piece:
        return [*[piece] * (full - 1), piece + rest]
    return [*[piece] * full, *([rest] if rest else [])]
