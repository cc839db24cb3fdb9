"""PowerSGD: gradients as low-rank matrices, with the error kept for the next step.

Vogels, Karimireddy, Jaggi: "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization",
NeurIPS 2019 (arXiv 1905.13727), algorithm 1, over sums instead of means: with ``M_i`` rank ``i``'s part of the
gradient plus its kept error,

    P = sum_i M_i Q        orthogonalised
    Q = sum_i M_i' P
    gradient ~ P Q'        error_i = M_i - P (M_i' P)'

so ``P`` and ``Q`` travel instead of ``M``: ``(m + n) r`` numbers instead of ``m n``. Vectors and small matrices travel
as they are, together with ``P`` and the rows. Two collectives a step, each one buffer, which Gloo handles well.
The gradient is an approximation: this mode is for links on which the exact one would take longer than the computing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trainer.reduction import FlatModel, Sums

LEAST_GAIN: Final = 2.0
"""A matrix is compressed when that makes it at least this much smaller."""


@dataclass(slots=True)
class _Matrix:
    span: slice
    rows: int
    columns: int
    q: Tensor

    def of(self, flat: Tensor) -> Tensor:
        return flat[self.span].view(self.rows, self.columns)


class PowerSgdReduction:
    """Reduces one model's gradients; keeps each rank's error between steps."""

    name = "powersgd"

    def __init__(self, flat: FlatModel, rank: int, seed: int) -> None:
        """``rank`` is that of the approximation; all ranks must pass the same ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        self._matrices: list[_Matrix] = []
        self._plain: list[slice] = []
        offset = 0
        for shape in flat.shapes:
            size = math.prod(shape)
            span = slice(offset, offset + size)
            offset += size
            rows = shape[0] if len(shape) > 1 else 1
            columns = size // rows
            used = min(rank, rows, columns)
            if len(shape) < 2 or (rows + columns) * used * LEAST_GAIN > size:
                self._plain.append(span)
                continue
            q = torch.randn(columns, used, generator=generator).to(flat.gradient.device)
            self._matrices.append(_Matrix(span, rows, columns, q))
        self._error = torch.zeros_like(flat.gradient)

    def reduce(self, flat: FlatModel, group: Sums) -> None:
        whole = flat.gradient + self._error
        parts = [matrix.of(whole) for matrix in self._matrices]
        first = torch.cat(
            [(part @ matrix.q).flatten() for part, matrix in zip(parts, self._matrices, strict=True)]
            + [flat.gradient[span] for span in self._plain]
            + [flat.rows]
        )
        group.all_reduce(first)
        bases: list[Tensor] = []
        offset = 0
        for matrix in self._matrices:
            used = matrix.q.shape[1]
            summed = first[offset : offset + matrix.rows * used].view(matrix.rows, used)
            bases.append(torch.linalg.qr(summed).Q)
            offset += matrix.rows * used
        own = [part.T @ base for part, base in zip(parts, bases, strict=True)]
        second = torch.cat([each.flatten() for each in own]) if own else flat.gradient[:0]
        if own:
            group.all_reduce(second)
        # Both collectives have succeeded: only now may anything be remembered.
        for span in self._plain:
            length = span.stop - span.start
            flat.gradient[span] = first[offset : offset + length]
            offset += length
        flat.rows.copy_(first[offset:])
        offset = 0
        for matrix, part, base, mine in zip(self._matrices, parts, bases, own, strict=True):
            length = mine.numel()
            matrix.q = second[offset : offset + length].view_as(mine).clone()
            offset += length
            matrix.of(self._error).copy_(part - base @ mine.T)
            matrix.of(flat.gradient).copy_(base @ matrix.q.T)

    def bytes_per_step(self, flat: FlatModel) -> int:
        low_rank = sum((matrix.rows + matrix.columns) * int(matrix.q.shape[1]) for matrix in self._matrices)
        plain = sum(span.stop - span.start for span in self._plain)
        return 4 * (low_rank + int(plain) + flat.rows.numel())
