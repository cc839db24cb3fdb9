"""Noise simulator for the balance policies: how fast they follow a change, how often they move samples for nothing.

Four ranks with the noise of real machines (normal noise, spikes, the sawtooth of a CPU quota, pauses, a laptop that
throttles and recovers in a cycle); no torch, no clock: a few thousand steps take a second.
"""

from __future__ import annotations

import random
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Final

from benchmarks.report import Figure, Options, at_most, main
from trainer.balance import make_policy
from trainer.plan import TimeTable, solve_shares, step_seconds

SPEEDS: Final = (2000.0, 1000.0, 500.0, 200.0)
OVERHEADS: Final = (0.004, 0.004, 0.006, 0.010)
GLOBAL_BATCH: Final = 512
SETTLED_WITHIN: Final = 1.05
"""Shares are right when the step they give, without noise, is at most this much longer than the shortest one."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What disturbs a step time."""

    name: str
    sigma: float = 0.0
    """Relative standard deviation of every reading."""
    spikes: float = 0.0
    """Probability that a step takes twice as long."""
    pauses: float = 0.0
    """Probability that a step stands still for up to two seconds."""
    quota_period: float = 0.0
    """Seconds of a CPU quota's period: a rank with quota ``q`` waits up to ``(1 - q) * period`` at a random phase."""
    sawtooth: int = 0
    """Steps of a throttling cycle of rank 0, which loses up to 40 % of its speed and gets it back at once."""


NOISES: Final = (
    Noise("2 %", sigma=0.02),
    Noise("5 %", sigma=0.05),
    Noise("5 % + spikes", sigma=0.05, spikes=0.02),
    Noise("quota 10 ms", sigma=0.02, quota_period=0.010),
    Noise("quota 100 ms", sigma=0.02, quota_period=0.100),
    Noise("pauses", sigma=0.03, pauses=0.01),
    Noise("sawtooth 20", sigma=0.03, sawtooth=20),
    Noise("sawtooth 40", sigma=0.03, sawtooth=40),
    Noise("15 % + spikes", sigma=0.15, spikes=0.05),
)

QUOTAS: Final = (1.0, 0.5, 0.25, 0.125)
"""Quota of each rank for ``Noise.quota_period``."""


def tables() -> list[TimeTable]:
    """Return the calibrated tables of the four ranks."""
    return [TimeTable.from_speed(speed, overhead) for speed, overhead in zip(SPEEDS, OVERHEADS, strict=True)]


@dataclass(slots=True)
class Outcome:
    """What one simulated run did."""

    expected: list[float] = field(default_factory=list)
    """Noise-free step time of every step with the shares in force, over the shortest possible one."""
    changes: list[int] = field(default_factory=list)
    """Steps at which the shares changed."""

    def settled_after(self, start: int, end: int, hold: int = 20) -> int:
        """Return the steps from ``start`` until the shares are right and stay so for ``hold`` steps."""
        for step in range(start, end - hold):
            if all(ratio <= SETTLED_WITHIN for ratio in self.expected[step : step + hold]):
                return step - start
        return end - start

    def changes_within(self, start: int, end: int) -> int:
        """Return how often the shares changed in those steps."""
        return sum(start <= step < end for step in self.changes)


Slowness = Callable[[int], tuple[float, float, float, float]]
"""Step to the true slowness of each rank: 1.0 as calibrated, 2.0 half as fast."""


def steady(_: int) -> tuple[float, float, float, float]:
    """Return ranks that stay as they were calibrated."""
    return (1.0, 1.0, 1.0, 1.0)


def alternating(rank: int, every: int) -> Slowness:
    """Return a rank that halves its speed and gets it back, again and again."""

    def slowness(step: int) -> tuple[float, float, float, float]:
        values = [1.0] * len(SPEEDS)
        values[rank] = 2.0 if step // every % 2 else 1.0
        return (values[0], values[1], values[2], values[3])

    return slowness


def simulate(
    noise: Noise, seed: int, steps: int, slowness: Slowness = steady, policy: str = "dynamic", error: float = 0.05
) -> Outcome:
    """Run a policy through noisy steps.

    Args:
        noise: What disturbs the step times.
        seed: Seed of the noise.
        steps: Steps to run.
        slowness: True slowness of the ranks at each step.
        policy: Name of the policy.
        error: Relative standard deviation of the calibration.
    """
    randomness = random.Random(seed)
    truth = tables()
    calibrated = [table.scaled(max(0.5, randomness.gauss(1, error))) for table in truth]
    rebuilt = [TimeTable.from_speed(table.samples_per_second, table.overhead * table.scale) for table in calibrated]
    balancer = make_policy(policy, rebuilt, GLOBAL_BATCH)
    outcome = Outcome()
    shortest: dict[tuple[float, ...], float] = {}
    expected: dict[tuple[tuple[float, ...], tuple[int, ...]], float] = {}
    for step in range(steps):
        factors = _with_sawtooth(slowness(step), noise, step)
        alone = [table.scaled(factor) for table, factor in zip(truth, factors, strict=True)]
        now = [Mean(table, noise.quota_period, QUOTAS[rank]) for rank, table in enumerate(alone)]
        if factors not in shortest:
            shortest[factors] = step_seconds(now, solve_shares(now, GLOBAL_BATCH))
        if (factors, balancer.shares) not in expected:
            expected[factors, balancer.shares] = step_seconds(now, balancer.shares)
        outcome.expected.append(expected[factors, balancer.shares] / shortest[factors])
        seconds = [
            _disturbed(table.seconds(share), noise, rank, randomness)
            for rank, (table, share) in enumerate(zip(alone, balancer.shares, strict=True))
        ]
        before = balancer.shares
        if balancer.observe(step, before, seconds) is not None and balancer.shares != before:
            outcome.changes.append(step)
    return outcome


PHASES: Final = 20


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean step time of a rank, quota included: a short step can be over before its quota is used up."""

    table: TimeTable
    period: float
    quota: float

    @property
    def samples_per_second(self) -> float:
        """Speed of long steps."""
        return self.table.samples_per_second

    def seconds(self, samples: int) -> float:
        """Return the mean over the phases of the quota's period at which a step can begin."""
        alone = self.table.seconds(samples)
        if not self.period or not samples:
            return alone
        return mean(_under_quota(alone * self.quota, self.quota, self.period, i / PHASES) for i in range(PHASES))

    def capacity(self, seconds: float) -> int:
        """Return the largest share within ``seconds``, by bisection."""
        if not self.period:
            return self.table.capacity(seconds)
        return bisect_right(range(1, GLOBAL_BATCH + 1), seconds, key=self.seconds)


def _with_sawtooth(
    slowness: tuple[float, float, float, float], noise: Noise, step: int
) -> tuple[float, float, float, float]:
    if not noise.sawtooth:
        return slowness
    phase = step % noise.sawtooth / noise.sawtooth
    return (slowness[0] / (1 - 0.4 * phase), *slowness[1:])


def _disturbed(seconds: float, noise: Noise, rank: int, randomness: random.Random) -> float:
    value = seconds * max(0.2, randomness.gauss(1, noise.sigma))
    if randomness.random() < noise.spikes:
        value *= 2
    if noise.quota_period:
        quota = QUOTAS[rank]
        value = _under_quota(value * quota, quota, noise.quota_period, randomness.random())
    if randomness.random() < noise.pauses:
        value += randomness.uniform(0, 2)
    return value


def _under_quota(work: float, quota: float, period: float, phase: float) -> float:
    """Return the wall time of ``work`` seconds of CPU under a quota, starting anywhere in its period."""
    budget = quota * period
    used = phase * budget
    first = budget - used
    if work <= first:
        return work
    whole, rest = divmod(work - first, budget)
    return (period - used) + whole * period + rest


@dataclass(frozen=True, slots=True)
class Row:
    """What a policy does under one kind of noise; medians over the seeds."""

    noise: str
    efficiency: float
    """Shortest possible over expected step time in steady state."""
    settle: float
    """Steps until the shares are right after a rank's speed halved or came back."""
    worst_settle: float
    """The same, the slowest tenth."""
    changes_per_100_steps: float
    """Share changes in steady state, mean over the seeds."""


def table_row(noise: Noise, seeds: int = 10, policy: str = "dynamic") -> Row:
    """Simulate a steady cluster and one whose fastest rank changes speed, for one kind of noise."""
    calm = [simulate(noise, seed, 700, policy=policy) for seed in range(seeds)]
    settle = sorted(settle_steps(noise, seeds, policy=policy))
    return Row(
        noise=noise.name,
        efficiency=median(1 / mean(run.expected[100:]) for run in calm),
        settle=median(settle),
        worst_settle=settle[int(0.9 * (len(settle) - 1))],
        changes_per_100_steps=mean(run.changes_within(100, 700) / 6 for run in calm),
    )


def settle_steps(noise: Noise, seeds: int, every: int = 60, changes: int = 6, policy: str = "dynamic") -> Iterator[int]:
    """Yield the steps to settle after each speed change of each seed; the changed rank differs between seeds."""
    for seed in range(seeds):
        run = simulate(noise, 1000 + seed, every * (changes + 1), alternating(seed % 4, every), policy=policy)
        for change in range(1, changes + 1):
            yield run.settled_after(change * every, (change + 1) * every)


IDS: Final = ("simulated_steps_to_rebalance", "simulated_plan_changes_per_100_steps")


def figures(options: Options) -> Iterator[Figure]:
    """Print what ``dynamic`` does under every kind of noise, and give the figures of 5 % noise."""
    if not options.wants(*IDS):
        return
    rows = [table_row(noise, seeds=3 if options.quick else 20) for noise in NOISES]
    print(f"simulated: {len(SPEEDS)} ranks, global batch {GLOBAL_BATCH}")
    print(f"  {'noise':16} {'of optimum':>10} {'steps to settle':>16} {'slowest tenth':>14} {'changes/100 steps':>18}")
    for row in rows:
        # A swinging rank never holds still, so there is nothing to settle to.
        swings = row.noise.startswith("sawtooth")
        settle = f"{'-':>16} {'-':>14}" if swings else f"{row.settle:16.0f} {row.worst_settle:14.0f}"
        print(f"  {row.noise:16} {row.efficiency:10.3f} {settle} {row.changes_per_100_steps:18.2f}")
    typical = next(row for row in rows if row.noise == "5 % + spikes")
    note = "simulated, 5 % noise with spikes"
    yield at_most(IDS[0], typical.settle, 5, "steps", note=note)
    yield at_most(IDS[1], typical.changes_per_100_steps, 1, "", note=note)


if __name__ == "__main__":
    sys.exit(main("trainer_simulation", figures))
