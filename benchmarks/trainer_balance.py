"""How much of the sum of solo speeds each way of sharing reaches, on three ranks with quotas of one CPU.

The quotas add up to less than one CPU, so one busy neighbour on a machine with two does not distort the ratios.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final

import psutil

from benchmarks import trainer_quota
from benchmarks.report import Figure, Options, at_least, at_most, measured, skipped
from benchmarks.trainer_cluster import Cluster, throughput, trainer_run
from benchmarks.trainer_quota import CpuQuota
from trainer.events import Shares, Step
from trainer.plan import efficiency

QUOTAS: Final = (0.5, 0.25, 0.125)
POLICIES: Final = ("equal", "static", "dynamic")
ENDLESS: Final = 1_000_000
SKIPPED_STEPS: Final = 2
"""Steps after a change of policy or a pause that are not counted: the command arrives somewhere in the middle."""
SHORTER_WHEN_EQUAL: Final = 2
"""Steps with equal shares last more than twice as long, so this part of them takes the same time."""
LEARNING_STEPS: Final = 20
"""The first steps learn the speeds; they are not what a steady cluster does."""

GOALS: Final = {1024: 0.97, 256: 0.90}
BELIEVABLE: Final = 1.02
"""A cluster is not quicker than the sum of its ranks alone; what is above by more than noise is a wrong ideal."""
AGAINST_DDP: Final = "dynamic_vs_ddp_equal_1024"
PLAN_CHANGES: Final = "plan_changes_per_100_steps"
REBALANCE: Final = "steps_to_rebalance"


@dataclass(slots=True)
class Speeds:
    """Samples per second of one global batch, everything measured in turns within one run of the benchmark."""

    micro_batches: Sequence[int]
    """With which each rank is quickest alone."""
    solo: list[list[float]] = field(default_factory=list)
    """Each rank training alone, all at the same time; before and after every round."""
    ddp: list[float] = field(default_factory=list)
    by_policy: dict[str, list[float]] = field(default_factory=lambda: {policy: [] for policy in POLICIES})
    compute: list[tuple[float, ...]] = field(default_factory=list)
    """Compute seconds of each rank in each counted step of ``dynamic``."""
    durations: list[float] = field(default_factory=list)
    """Seconds of the same steps."""

    @property
    def ideals(self) -> list[float]:
        """Sum of the ranks' speeds alone around each round: the mean of before and after."""
        totals = [sum(speeds) for speeds in self.solo]
        return [(before + after) / 2 for before, after in pairwise(totals)]

    def factors(self, global_batch: int) -> str:
        """Say where the rest of ``dynamic``'s speed went."""
        alone = [sum(speeds) / len(speeds) for speeds in zip(*self.solo, strict=True)]
        split = efficiency(self.compute, self.durations, global_batch, alone)
        return f"balance {split.balance:.3f} x jitter {split.jitter:.3f} x communication {split.communication:.3f}"

    def of_ideal(self, speeds: Sequence[float]) -> list[float]:
        """Return each round's speed over the ideal of the same round."""
        return [speed / ideal for speed, ideal in zip(speeds, self.ideals, strict=True)]


def figures(options: Options) -> Iterator[Figure]:
    """Measure everything about balance under CPU quotas."""
    wanted = [batch for batch in GOALS if options.wants(*_ids(batch))]
    reason = trainer_quota.unavailable()
    if reason:
        all_ids = [id_ for batch in GOALS for id_ in _ids(batch)]
        yield from (skipped(id_, reason) for id_ in (*all_ids, PLAN_CHANGES, REBALANCE) if options.wants(id_))
        return
    for batch in wanted:
        began, busy = time.monotonic(), _busy_seconds()
        speeds = compare(batch, seconds=3 if options.quick else 8, rounds=1 if options.quick else 3)
        used = (_busy_seconds() - busy) / (time.monotonic() - began)
        yield from _speed_figures(batch, speeds, used)
    if options.wants(PLAN_CHANGES, REBALANCE):
        yield from _long_run(options)


def _ids(batch: int) -> tuple[str, ...]:
    """Return the figures that a comparison with one global batch gives."""
    names = ("dynamic", "static", "equal", "ddp_equal")
    more = (AGAINST_DDP,) if batch == 1024 else ()
    return (*(f"{name}_of_ideal_{batch}" for name in names), *more)


def _speed_figures(batch: int, speeds: Speeds, used: float) -> Iterator[Figure]:
    dynamic = speeds.of_ideal(speeds.by_policy["dynamic"])
    pieces = "/".join(map(str, speeds.micro_batches))
    ideal = (
        f"{median(speeds.ideals):.0f} samples/s of the three ranks alone in a plain loop, micro-batches up to {pieces}"
    )
    note = (
        f"{speeds.factors(batch)}; {len(dynamic)} rounds, {min(dynamic):.3f} to {max(dynamic):.3f}; "
        f"{used:.2f} of {psutil.cpu_count()} CPUs busy, {sum(QUOTAS):.3g} of them by the ranks"
    )
    id_ = f"dynamic_of_ideal_{batch}"
    yield at_least(id_, median(dynamic), GOALS[batch], anchor=ideal, note=note, ceiling=BELIEVABLE)
    for policy in ("static", "equal"):
        ratio = median(speeds.of_ideal(speeds.by_policy[policy]))
        yield measured(f"{policy}_of_ideal_{batch}", ratio, "x", anchor=ideal)
    yield measured(f"ddp_equal_of_ideal_{batch}", median(speeds.of_ideal(speeds.ddp)), "x", anchor=ideal)
    if batch == 1024:
        against = [ours / theirs for ours, theirs in zip(speeds.by_policy["dynamic"], speeds.ddp, strict=True)]
        anchor = f"{median(speeds.ddp):.0f} samples/s of DistributedDataParallel, equal batches"
        yield at_least(AGAINST_DDP, median(against), 2.25, anchor=anchor)


def _busy_seconds() -> float:
    """Return the processor time the whole machine has used: other work on it makes the figures worthless."""
    times = psutil.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def quotas(parts: Sequence[float] = QUOTAS) -> Iterator[list[CpuQuota]]:
    """Give one control group for each part of a CPU, removed afterwards."""
    with contextlib.ExitStack() as stack:
        # The first has a CPU of its own; with two CPUs the others share the second, which they do not fill.
        last = max(1, (os.cpu_count() or 1) - 1)
        yield [stack.enter_context(CpuQuota(str(rank), cpus, min(rank, last))) for rank, cpus in enumerate(parts)]


def command_line(global_batch: int, policy: str, *more: str) -> list[str]:
    """Return the trainer's options for a run that lasts until it is stopped, without a shorter last step."""
    return [
        "--workload", "simple_cnn", "--global-batch", str(global_batch), "--samples", str(4 * global_batch),
        "--epochs", str(ENDLESS), "--policy", policy, *more,
    ]  # fmt: skip


def compare(global_batch: int, seconds: float, rounds: int) -> Speeds:
    """Measure ideal, peer and policies for one global batch.

    All of them are started once, in the same control groups, and take turns: whoever has no turn stands still. So a
    machine that becomes slower for minutes slows all of them.

    Args:
        global_batch: Samples of a step.
        seconds: About how long each turn lasts.
        rounds: Turns of each.
    """
    # Both import torch, which a benchmark of something else need not wait for.
    from benchmarks.trainer_alone import AloneRun
    from benchmarks.trainer_ddp import DdpRun

    with contextlib.ExitStack() as stack:
        limits = stack.enter_context(quotas())
        ddp = stack.enter_context(DdpRun(limits, global_batch))
        group = stack.enter_context(trainer_run(len(QUOTAS), command_line(global_batch, "dynamic"), quotas=limits))
        group.go()
        group.run_steps(LEARNING_STEPS)
        learned = group.steps_in(range(LEARNING_STEPS))[-3:]
        usual = median(event.duration for event in learned)
        shares = [group.of(Step, rank)[-1].share for rank in range(len(QUOTAS))]
        _stand_aside(group, limits)
        alone = stack.enter_context(AloneRun(limits, shares))
        speeds = Speeds(alone.micro_batches)
        steps = max(3, round(seconds / usual))
        speeds.solo.append(alone.measure(seconds))
        for _ in range(rounds):
            _take_turn(group, limits)
            for policy in POLICIES:
                group.change_policy(policy)
                wanted = max(3, steps // SHORTER_WHEN_EQUAL) if policy == "equal" else steps
                window = group.run_steps(wanted + SKIPPED_STEPS)[SKIPPED_STEPS:]
                speeds.by_policy[policy].append(throughput(group.steps_in(window)))
                if policy == "dynamic":
                    _add_times(speeds, group, window)
            _stand_aside(group, limits)
            speeds.ddp.append(ddp.measure(max(3, steps // SHORTER_WHEN_EQUAL)))
            speeds.solo.append(alone.measure(seconds))
        _take_turn(group, limits)
        group.stop()
    return speeds


def _stand_aside(run: Cluster, limits: Sequence[CpuQuota]) -> None:
    """Let the group stand still outside its quotas: its heartbeat is 6 % of what an eighth of a CPU can do."""
    run.pause()
    for rank, limit in enumerate(limits):
        limit.release(run.process_of(rank))


def _take_turn(run: Cluster, limits: Sequence[CpuQuota]) -> None:
    for rank, limit in enumerate(limits):
        limit.add(run.process_of(rank))
    run.resume()


def _add_times(speeds: Speeds, run: Cluster, window: range) -> None:
    """Keep what every rank computed in the steps of a window that all ranks have told."""
    by_rank = [{event.step: event for event in run.of(Step, rank)} for rank in range(len(QUOTAS))]
    for step in window:
        told = [events[step] for events in by_rank if step in events]
        if len(told) == len(QUOTAS):
            speeds.compute.append(tuple(event.data + event.compute for event in told))
            speeds.durations.append(told[0].duration)


def _changes(told: Sequence[Shares], window: range) -> list[Shares]:
    """Return the changes of the plan within some steps."""
    return [event for event in told if event.step in window]


LONG_BATCH: Final = 256
STEADY_STEPS: Final = 300
REBALANCE_STEPS: Final = 25
NEAR: Final = 0.10
"""Shares count as right when each is this near, or two samples near, to the one the run ends up with."""


def _long_run(options: Options) -> Iterator[Figure]:
    """Train at steady quotas, then halve and restore the fastest rank's quota again and again."""
    steady = 30 if options.quick else STEADY_STEPS
    changes = 2 if options.quick else 20
    length = 15 if options.quick else REBALANCE_STEPS
    settled = []
    with quotas() as limits, trainer_run(len(QUOTAS), command_line(LONG_BATCH, "dynamic"), quotas=limits) as run:
        run.go()
        run.run_steps(LEARNING_STEPS)
        if options.wants(PLAN_CHANGES):
            told = _changes(run.of(Shares), run.run_steps(steady))
            reasons = "; ".join(f"{event.reason} (step {event.step})" for event in told)
            note = f"{len(told)} in {steady} steps at steady quotas{': ' if told else ''}{reasons}"
            yield at_most(PLAN_CHANGES, 100 * len(told) / steady, 1, "", note=note)
        if options.wants(REBALANCE):
            for change in range(changes):
                limits[0].set(QUOTAS[0] * (0.5 if change % 2 == 0 else 1.0))
                window = run.run_steps(length)
                settled.append(steps_to_settle(_shares_in(run, window)))
            note = f"{changes} changes, slowest {max(settled)}"
            anchor = "shares the run ends up with"
            yield at_most(REBALANCE, median(settled), 5, "steps", anchor=anchor, note=note)
        run.stop()


def _shares_in(run: Cluster, window: range) -> list[tuple[int, ...]]:
    """Return the shares of every step of a window, from what each rank says it computed."""
    by_rank = [{event.step: event.share for event in run.of(Step, rank)} for rank in range(len(QUOTAS))]
    return [tuple(shares.get(step, 0) for shares in by_rank) for step in window if step in by_rank[0]]


def steps_to_settle(shares: Sequence[tuple[int, ...]]) -> int:
    """Return after how many steps the shares are near those of the last third, and stay there."""
    last = shares[-max(1, len(shares) // 3) :]
    final = [median(column) for column in zip(*last, strict=True)]

    def near(step: tuple[int, ...]) -> bool:
        return all(abs(share - goal) <= max(2, NEAR * goal) for share, goal in zip(step, final, strict=True))

    wrong = [index for index, step in enumerate(shares[: -len(last)]) if not near(step)]
    return wrong[-1] + 1 if wrong else 0
