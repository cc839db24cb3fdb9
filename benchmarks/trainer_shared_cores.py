"""Simulated: three ranks on two cores, as containers on one machine share them. Does ``dynamic`` chase the scheduler?

At the start of a step two ranks are on one core and run at half speed, the third has the other core to itself; which
one it is changes now and then. A core that runs dry takes a rank from the other one. So a rank's speed depends on
where the scheduler put it and on when the others end, and nothing of it is worth following: equal shares are right.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Final

from benchmarks.report import Figure, Options, at_least, at_most, main
from trainer.balance import make_policy
from trainer.plan import TimeTable

SPEED: Final = 1000.0
"""Samples per second of a rank that has a core to itself."""
GLOBAL_BATCH: Final = 300
RANKS: Final = 3
STEPS: Final = 1000
STAYS: Final = (1, 5, 10, 20, 50)
"""Mean steps for which the scheduler leaves the ranks where they are."""
SPEED_ID: Final = "shared_cores_of_equal"
CHANGES_ID: Final = "shared_cores_changes_per_100_steps"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy did."""

    samples_per_second: float
    changes_per_100_steps: float
    widest: int
    """Largest share any rank had."""


def step_times(shares: tuple[int, ...], alone: int) -> list[float]:
    """Return when each rank ends its share: ``alone`` begins on a core of its own, the others on the other one."""
    left = {rank: share / SPEED for rank, share in enumerate(shares) if share}
    core = {rank: int(rank != alone) for rank in left}
    ends = [0.0] * len(shares)
    now = 0.0
    while left:
        on_core = [sum(place == number for place in core.values()) for number in (0, 1)]
        for idle in (0, 1):
            if on_core[idle] == 0 and on_core[1 - idle] > 1:
                core[max(core)] = idle
                on_core = [1, on_core[1 - idle] - 1] if idle == 0 else [on_core[0] - 1, 1]
        rank = min(left, key=lambda each: (left[each] * on_core[core[each]], each))
        passed = left[rank] * on_core[core[rank]]
        for each in left:
            left[each] -= passed / on_core[core[each]]
        now += passed
        ends[rank] = now
        del left[rank], core[rank]
        for each in [each for each, work in left.items() if work < 1e-12]:
            ends[each] = now
            del left[each], core[each]
    return ends


def simulate(policy: str, stay: float, seed: int, noise: float = 0.03) -> Outcome:
    """Run a policy on shared cores; the calibration was done under the same conditions."""
    randomness = random.Random(seed)
    tables = [TimeTable.from_speed(SPEED / randomness.uniform(1, 2)) for _ in range(RANKS)]
    balancer = make_policy(policy, tables, GLOBAL_BATCH)
    alone, seconds, changes, widest = 0, 0.0, 0, 0
    for step in range(STEPS):
        if randomness.random() < 1 / stay:
            alone = randomness.randrange(RANKS)
        measured = [end * max(0.5, randomness.gauss(1, noise)) for end in step_times(balancer.shares, alone)]
        seconds += max(measured)
        widest = max(widest, *balancer.shares)
        changes += balancer.observe(step, balancer.shares, measured) is not None
    return Outcome(STEPS * GLOBAL_BATCH / seconds, 100 * changes / STEPS, widest)


def figures(options: Options) -> Iterator[Figure]:
    """Compare ``dynamic`` with ``equal``, the right answer here."""
    if not options.wants(SPEED_ID, CHANGES_ID):
        return
    seeds = range(2 if options.quick else 10)
    ratios, changes = {}, {}
    for stay in STAYS:
        dynamic = [simulate("dynamic", stay, seed) for seed in seeds]
        equal = [simulate("equal", stay, seed) for seed in seeds]
        ratios[stay] = mean(a.samples_per_second for a in dynamic) / mean(b.samples_per_second for b in equal)
        changes[stay] = mean(each.changes_per_100_steps for each in dynamic)
    told = ", ".join(f"{stay}: {ratios[stay]:.3f} with {changes[stay]:.1f} changes" for stay in STAYS)
    note = f"simulated; by steps the scheduler leaves ranks in place: {told}"
    yield at_least(SPEED_ID, min(ratios.values()), 0.95, anchor="equal shares, the right ones here", note=note)
    yield at_most(CHANGES_ID, max(changes.values()), 5, "", note="simulated, the worst of them")


if __name__ == "__main__":
    sys.exit(main("trainer_shared_cores", figures))
