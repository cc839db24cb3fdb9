"""How fast this rank is: seconds of forward and backward against the micro-batch, and how large one may be."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

BUDGET_SECONDS: Final = 4.0
REJOIN_BUDGET_SECONDS: Final = 1.0
"""The same for a rank that joins a running job: until then the others work without it."""
REPEATS: Final = 3
"""Timed calls a size on an accelerator."""
CPU_WINDOW: Final = 1 / 12
"""Part of the budget for which a processor is timed at each size, without a break. A container's processor time is
dealt out in periods of 10 to 100 ms: a small piece that is over within one looks several times as quick as it is."""
CPU_STRIDE: Final = 2
"""Of every so many micro-batches one is tried on a processor, so that a slow one gets to the large ones, which are the
quickest, within its budget."""
SLOWER: Final = 0.9
"""Growing the micro-batch stops when the speed falls below this part of the best."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of one rank."""

    table: tuple[tuple[int, float], ...]
    """(micro-batch in samples, seconds), rising."""
    bytes_per_sample: float = 0.0
    """Accelerator memory of one more sample; 0 where it cannot be measured."""
    out_of_memory_at: int = 0
    """The micro-batch that did not fit; 0: all that were tried did."""

    @property
    def max_micro_batch(self) -> int:
        """The largest micro-batch that was seen to fit."""
        return self.table[-1][0]

    @property
    def samples_per_second(self) -> float:
        """The best speed in the table."""
        return max(samples / seconds for samples, seconds in self.table)


def sizes(largest: int, global_batch: int, device: str) -> list[int]:
    """Return the micro-batches to try: powers of two up to the limit, and the limit itself.

    Args:
        largest: A person's limit; 0: none.
        global_batch: No micro-batch can be larger.
        device: CPUs lose speed beyond their caches long before accelerators do.
    """
    limit = min(global_batch, largest or (512 if device == "cpu" else 4096))
    powers = [1 << exponent for exponent in range(2, limit.bit_length()) if 1 << exponent <= limit]
    return sorted({*powers, limit})


def calibrate(
    run: Callable[[int], None],
    candidates: Sequence[int],
    *,
    device: str,
    simulated_samples_per_second: float = math.inf,
    budget: float = BUDGET_SECONDS,
) -> Calibration:
    """Measure ``run(micro_batch)``: one warm-up and some timed calls a size, within ``budget`` seconds in all.

    A simulated rank is not measured more slowly: its times are raised to what it will be held down to in training.

    Raises:
        MemoryError: not even the smallest micro-batch fits.
    """
    deadline = time.perf_counter() + budget
    window = budget * CPU_WINDOW if device == "cpu" else 0.0
    table: list[tuple[int, float]] = []
    memory: list[tuple[int, int]] = []
    too_large = 0
    best = 0.0
    size: int | None = candidates[0]
    while size is not None:
        try:
            seconds, used = _measure(run, size, device, deadline, window)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _release(device)
            if not table:
                raise MemoryError(
                    f"a micro-batch of {size} samples does not fit into the memory of {device}"
                ) from error
            too_large = size
            break
        if size / seconds < SLOWER * best:
            # Slower than a smaller one: the size, or something else that ran at the same time? Ask again.
            seconds = min(seconds, _measure(run, size, device, deadline, window)[0])
        table.append((size, seconds))
        memory.append((size, used))
        best = max(best, size / seconds)
        if size / seconds < SLOWER * best:
            break
        size = _next_size(candidates, table[-1], CPU_STRIDE if device == "cpu" else 1, deadline)
    simulated = tuple((size, max(seconds, size / simulated_samples_per_second)) for size, seconds in table)
    return Calibration(simulated, _bytes_per_sample(memory), too_large)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell running out of memory from every other error; the CPU allocator has no type of its own for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return "can't allocate memory" in text or "out of memory" in text


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given: only then is a duration true."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _next_size(candidates: Sequence[int], measured: tuple[int, float], stride: int, deadline: float) -> int | None:
    """Return the micro-batch to try next: the largest within ``stride`` that the time left allows to run twice."""
    size, seconds = measured
    left = deadline - time.perf_counter()
    ahead = [candidate for candidate in candidates if candidate > size][:stride]
    return max((candidate for candidate in ahead if 2 * seconds * candidate / size <= left), default=None)


def _measure(run: Callable[[int], None], size: int, device: str, deadline: float, window: float) -> tuple[float, int]:
    """Return the seconds and the accelerator memory of one call; on a processor the mean over a window of time."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    run(size)
    synchronize(device)
    durations: list[float] = []
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        run(size)
        synchronize(device)
        now = time.perf_counter()
        durations.append(now - start)
        is_enough = now - began >= window if window else len(durations) >= REPEATS
        if is_enough or now + durations[-1] >= deadline:
            break
    used = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
    return statistics.mean(durations) if window else statistics.median(durations), used


def _release(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _bytes_per_sample(memory: Sequence[tuple[int, int]]) -> float:
    if len(memory) < 2 or memory[-1][1] <= memory[0][1]:
        return 0.0
    return (memory[-1][1] - memory[0][1]) / (memory[-1][0] - memory[0][0])
