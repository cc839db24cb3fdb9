"""How long one rank needs for a share of the batch: a table of measured micro-batches, made monotone.

Speed is no single number: a GPU needs many samples to be full, and a CPU slows down once a micro-batch leaves its
caches or its allocator. Standard library only; the arithmetic is the same on every machine (see :mod:`trainer.plan`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

ALIKE: Final = 0.97
"""Micro-batches whose speed is this part of the best are taken for equally quick, and the largest of them is used: the
difference is noise more often than not, and a small piece that was lucky once costs much in every step."""


class PlanError(ValueError):
    """The numbers given leave no valid plan; the message says which and why."""


class TimeModel(Protocol):
    """How long one rank needs for its part of a step, up to the first collective."""

    def seconds(self, samples: int) -> float:
        """Seconds for ``samples`` samples: never falls when ``samples`` rises, 0 for 0, infinite where impossible."""
        ...

    def capacity(self, seconds: float) -> int:
        """The largest number of samples the rank can compute within ``seconds``."""
        ...

    @property
    def samples_per_second(self) -> float:
        """Speed at the rank's best micro-batch, without the overhead of a step."""
        ...


@dataclass(frozen=True, slots=True)
class TimeTable:
    """The step time of one rank, from measured (micro-batch, seconds) pairs.

    A share is computed in one piece where it fits the largest measured micro-batch, or in pieces of the micro-batch
    with the best speed plus a remainder: ``t(b) = floor(b / m) * t(m) + t(b mod m)``, whichever is quicker. Memory
    therefore limits the micro-batch and never the share. Build one with :meth:`measured` or :meth:`from_speed`.
    """

    micro_batches: tuple[int, ...]
    """Measured micro-batches in samples, strictly rising."""
    piece_seconds: tuple[float, ...]
    """Seconds of forward and backward for each of ``micro_batches``; never falling."""
    overhead: float = 0.0
    """Seconds paid once in every step in which the rank has at least one sample."""
    scale: float = 1.0
    """All times are multiplied by this: 2.0 is a rank that has become half as fast since it was measured."""
    linear: bool = False
    """True for :meth:`from_speed`: time is proportional to samples, and pieces may have any size."""
    max_micro_batch: int = 0
    """Largest piece that fits into memory; 0 where nothing limits it (only with ``linear``)."""
    best: int = 0
    """Index of the micro-batch with the best speed."""

    def state_dict(self) -> dict[str, Any]:
        """Return the table as it was measured, without its scale, as JSON values."""
        return {
            "micro_batches": list(self.micro_batches),
            "piece_seconds": list(self.piece_seconds),
            "overhead": self.overhead,
            "linear": self.linear,
            "max_micro_batch": self.max_micro_batch,
            "best": self.best,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> TimeTable:
        """Read what :meth:`state_dict` returned."""
        return cls(
            tuple(state["micro_batches"]),
            tuple(state["piece_seconds"]),
            overhead=state["overhead"],
            linear=state["linear"],
            max_micro_batch=state["max_micro_batch"],
            best=state["best"],
        )

    @classmethod
    def measured(
        cls, points: Sequence[tuple[int, float]], *, max_micro_batch: int | None = None, overhead: float = 0.0
    ) -> TimeTable:
        """Build a table from measurements in any order.

        Several measurements of one micro-batch are averaged. Noise that makes a larger micro-batch look quicker than
        a smaller one is smoothed away by pooling the two (isotonic regression, "pool adjacent violators").

        Args:
            points: (micro-batch in samples, seconds for one forward and backward).
            max_micro_batch: Largest micro-batch that fits into memory. Measurements above it are used for
                interpolation only. Without it the largest measured micro-batch is the limit: a size nobody tried is
                never planned.
            overhead: Seconds paid once a step, not once a micro-batch.

        Raises:
            PlanError: no points, or a value that is not positive and finite.
        """
        if not points:
            raise PlanError("a time table needs at least one measured (micro-batch, seconds) pair")
        for samples, seconds in points:
            if samples < 1 or not (math.isfinite(seconds) and seconds > 0):
                raise PlanError(f"not a measurement: {samples} samples in {seconds} s")
        _check_overhead(overhead)
        sizes, times = _isotonic(points)
        limit = sizes[-1] if max_micro_batch is None else max_micro_batch
        if limit < 1:
            raise PlanError(f"the largest micro-batch must be at least 1 sample, not {limit}")
        if limit < sizes[-1]:
            at_limit = _interpolate(sizes, times, limit)
            kept = bisect_right(sizes, limit - 1)
            sizes, times = [*sizes[:kept], limit], [*times[:kept], at_limit]
        speeds = [size / seconds for size, seconds in zip(sizes, times, strict=True)]
        best = max(index for index, speed in enumerate(speeds) if speed >= ALIKE * max(speeds))
        return cls(tuple(sizes), tuple(times), overhead=overhead, max_micro_batch=sizes[-1], best=best)

    @classmethod
    def from_speed(
        cls, samples_per_second: float, overhead: float = 0.0, *, max_micro_batch: int | None = None
    ) -> TimeTable:
        """Build the simplest table: ``t(b) = overhead + b / samples_per_second``.

        Raises:
            PlanError: a speed that is not positive and finite, or a negative overhead.
        """
        if not (math.isfinite(samples_per_second) and samples_per_second > 0):
            raise PlanError(f"a speed must be positive and finite, not {samples_per_second} samples/s")
        _check_overhead(overhead)
        if max_micro_batch is not None and max_micro_batch < 1:
            raise PlanError(f"the largest micro-batch must be at least 1 sample, not {max_micro_batch}")
        return cls(
            (1,), (1.0 / samples_per_second,), overhead=overhead, linear=True, max_micro_batch=max_micro_batch or 0
        )

    def scaled(self, factor: float) -> TimeTable:
        """Return this table with every time multiplied by ``factor`` of the times first measured.

        Raises:
            PlanError: the factor is not positive and finite.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise PlanError(f"times cannot be multiplied by {factor}")
        return TimeTable(
            self.micro_batches, self.piece_seconds, self.overhead, factor, self.linear, self.max_micro_batch, self.best
        )

    @property
    def samples_per_second(self) -> float:
        """Speed at the best micro-batch, without the overhead of a step."""
        return self.micro_batches[self.best] / (self.piece_seconds[self.best] * self.scale)

    def micro_batch(self, samples: int) -> int:
        """Return the micro-batch this table's times assume for a share: full pieces of it, then the remainder.

        The result is ``samples`` itself where one piece is quickest, and 1 for an empty share.
        """
        if self.linear:
            return max(1, min(samples, self.max_micro_batch or samples))
        if samples <= self.max_micro_batch and self._one_piece(samples) <= self._pieces(samples):
            return max(1, samples)
        return self.micro_batches[self.best]

    def seconds(self, samples: int) -> float:
        """Return the seconds for a share; 0 for an empty share, which costs not even the overhead."""
        if samples <= 0:
            return 0.0
        if self.linear:
            return (self.overhead + samples * self.piece_seconds[0]) * self.scale
        needed = self._pieces(samples)
        if samples <= self.max_micro_batch:
            needed = min(needed, self._one_piece(samples))
        return (self.overhead + needed) * self.scale

    def capacity(self, seconds: float) -> int:
        """Return the largest share that takes at most ``seconds`` (within rounding of the last bit)."""
        left = seconds / self.scale - self.overhead
        if left <= 0:
            return 0
        sizes, times = self.micro_batches, self.piece_seconds
        if self.linear:
            return int(left / times[0])
        size, piece = sizes[self.best], times[self.best]
        pieces = int(left / piece)
        in_pieces = pieces * size + min(self._fits(left - pieces * piece), size - 1)
        return max(in_pieces, self._fits(left))

    def _pieces(self, samples: int) -> float:
        size = self.micro_batches[self.best]
        pieces, rest = divmod(samples, size)
        return pieces * self.piece_seconds[self.best] + (self._one_piece(rest) if rest else 0.0)

    def _one_piece(self, samples: int) -> float:
        return _interpolate(self.micro_batches, self.piece_seconds, samples) if samples else 0.0

    def _fits(self, seconds: float) -> int:
        """Return the largest single piece that takes at most ``seconds``: the inverse of :meth:`_one_piece`."""
        sizes, times = self.micro_batches, self.piece_seconds
        index = bisect_right(times, seconds)
        if index == len(times):
            return sizes[-1]
        if index == 0:
            intercept, slope = _below_first(sizes, times)
            return min(int((seconds - intercept) / slope), sizes[0]) if seconds > intercept and slope > 0 else 0
        low, high = index - 1, index
        return sizes[low] + int((seconds - times[low]) * (sizes[high] - sizes[low]) / (times[high] - times[low]))


def _check_overhead(overhead: float) -> None:
    if not (math.isfinite(overhead) and overhead >= 0):
        raise PlanError(f"an overhead must be 0 or more seconds, not {overhead}")


def _isotonic(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Return rising sizes and never-falling times: the least-squares fit that is monotone."""
    by_size: dict[int, list[float]] = {}
    for samples, seconds in points:
        by_size.setdefault(samples, []).append(seconds)
    pools: list[tuple[float, int, list[int]]] = []
    for size in sorted(by_size):
        total, count, sizes = math.fsum(by_size[size]), len(by_size[size]), [size]
        while pools and pools[-1][0] * count >= total * pools[-1][1]:
            total, count, sizes = pools[-1][0] + total, pools[-1][1] + count, pools[-1][2] + sizes
            pools.pop()
        pools.append((total, count, sizes))
    return [size for _, _, sizes in pools for size in sizes], [
        total / count for total, count, sizes in pools for _ in sizes
    ]


def _below_first(sizes: Sequence[int], times: Sequence[float]) -> tuple[float, float]:
    """Return intercept and slope of the line used below the smallest measured micro-batch.

    The line of the first two points is continued downwards, never below zero seconds for zero samples.
    """
    if len(sizes) == 1:
        return 0.0, times[0] / sizes[0]
    slope = (times[1] - times[0]) / (sizes[1] - sizes[0])
    intercept = times[0] - slope * sizes[0]
    return (intercept, slope) if intercept >= 0 else (0.0, times[0] / sizes[0])


def _interpolate(sizes: Sequence[int], times: Sequence[float], samples: int) -> float:
    index = bisect_right(sizes, samples)
    if index == 0:
        intercept, slope = _below_first(sizes, times)
        return min(intercept + slope * samples, times[0])
    low = index - 1
    if sizes[low] == samples or index == len(sizes):
        return times[low]
    share = (samples - sizes[low]) / (sizes[index] - sizes[low])
    return min(times[low] + (times[index] - times[low]) * share, times[index])
