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
    limit = min(global_batch, largest or (256 if device == "cpu" else 4096))
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
    """Measure ``run(micro_batch)``: one warm-up and up to three timed calls a size, within ``budget`` seconds in all.

    A simulated rank is not measured more slowly: its times are raised to what it will be held down to in training.

    Raises:
        MemoryError: not even the smallest micro-batch fits.
    """
    deadline = time.perf_counter() + budget
    table: list[tuple[int, float]] = []
    memory: list[tuple[int, int]] = []
    too_large = 0
    best = 0.0
    for size in candidates:
        if table and time.perf_counter() + 2 * table[-1][1] * size / table[-1][0] > deadline:
            break
        try:
            seconds, used = _measure(run, size, device, deadline)
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
            seconds = min(seconds, _measure(run, size, device, deadline)[0])
        table.append((size, seconds))
        memory.append((size, used))
        best = max(best, size / seconds)
        if size / seconds < SLOWER * best:
            break
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


def _measure(run: Callable[[int], None], size: int, device: str, deadline: float) -> tuple[float, int]:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    run(size)
    synchronize(device)
    durations: list[float] = []
    while not durations or (len(durations) < REPEATS and time.perf_counter() + durations[-1] < deadline):
        start = time.perf_counter()
        run(size)
        synchronize(device)
        durations.append(time.perf_counter() - start)
    used = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
    return statistics.median(durations), used


def _release(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _bytes_per_sample(memory: Sequence[tuple[int, int]]) -> float:
    if len(memory) < 2 or memory[-1][1] <= memory[0][1]:
        return 0.0
    return (memory[-1][1] - memory[0][1]) / (memory[-1][0] - memory[0][0])
