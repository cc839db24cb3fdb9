"""Simulated: is it worth taking the last part of a batch piece by piece instead of planning it?

Each rank computes most of its planned share at once; the rest of the global batch lies in a common counter from which
whoever is free takes a piece, unless it could not finish that piece before the others would be done. The plan is right
on average, so all that can be won is what single steps differ from it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from statistics import mean
from typing import Final

from benchmarks.report import Figure, Options, main, measured
from trainer.plan import TimeTable, solve_shares

SPEEDS: Final = (571.0, 286.0, 143.0)
"""Samples/s: quotas of 0.5, 0.25 and 0.125 CPUs."""
KEPT: Final = 0.8
"""Part of the share that is computed at once."""
PIECE: Final = 0.05
"""Size of a piece, as a part of the step's time on the rank that takes it."""
PIECE_SECONDS: Final = {"lan": 0.005, "wifi": 0.012}
"""What one more piece costs: a store round trip, a fetch and the fixed part of a micro-batch."""
CASES: Final = ((256, 0.03, "lan"), (256, 0.15, "lan"), (1024, 0.03, "lan"), (1024, 0.15, "lan"), (1024, 0.15, "wifi"))
"""(global batch, relative noise of a rank's step, network)."""


def ratio(global_batch: int, noise: float, network: str, steps: int) -> float:
    """Return the speed with a pulled tail over that of the plan alone, in the same noisy steps."""
    randomness = random.Random(1)
    tables = [TimeTable.from_speed(speed) for speed in SPEEDS]
    shares = solve_shares(tables, global_batch)
    planned, pulled = [], []
    for _ in range(steps):
        speeds = [speed / max(0.3, randomness.gauss(1, noise)) for speed in SPEEDS]
        planned.append(max(share / speed for share, speed in zip(shares, speeds, strict=True)))
        pulled.append(_pulled(global_batch, shares, speeds, PIECE_SECONDS[network]))
    return mean(planned) / mean(pulled)


def _pulled(global_batch: int, shares: tuple[int, ...], speeds: list[float], piece_cost: float) -> float:
    step = global_batch / sum(SPEEDS)
    begun = [int(share * KEPT) for share in shares]
    free = [count / speed for count, speed in zip(begun, speeds, strict=True)]
    left = global_batch - sum(begun)
    while left:
        # Everybody has seen its own speed in this step by now, so it can tell when a piece would be done.
        sizes = [max(1, min(left, int(PIECE * step * speed))) for speed in speeds]
        ends = [at + piece_cost + size / speed for at, size, speed in zip(free, sizes, speeds, strict=True)]
        rank = min(range(len(ends)), key=lambda each: ends[each])
        free[rank] = ends[rank]
        left -= sizes[rank]
    return max(free)


def figures(options: Options) -> Iterator[Figure]:
    """Compare both for short and long steps and little and much noise."""
    for global_batch, noise, network in CASES:
        id_ = f"pulled_tail_{global_batch}_{round(100 * noise)}_{network}"
        if options.wants(id_):
            found = ratio(global_batch, noise, network, 200 if options.quick else 3000)
            yield measured(id_, found, "x", anchor="the plan alone, the same noisy steps", note="simulated")


if __name__ == "__main__":
    sys.exit(main("trainer_pulled_tail", figures))
