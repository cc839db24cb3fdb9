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
LEARNING_STEPS: Final = 8
"""The first steps learn the speeds; they are not what a steady cluster does."""

GOALS: Final = {1024: 0.97, 256: 0.90}
AGAINST_DDP: Final = "dynamic_vs_ddp_equal_1024"
PLAN_CHANGES: Final = "plan_changes_per_100_steps"
REBALANCE: Final = "steps_to_rebalance"


@dataclass(slots=True)
class Speeds:
    """Samples per second of one global batch, everything measured in turns within one run of the benchmark."""

    solo: list[list[float]] = field(default_factory=list)
    """Each rank training alone, all at the same time; once a round."""
    ddp: list[float] = field(default_factory=list)
    by_policy: dict[str, list[float]] = field(default_factory=lambda: {policy: [] for policy in POLICIES})
    dynamic_steps: int = 0
    dynamic_changes: int = 0
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
        yield from (skipped(id_, reason) for id_ in (*dict.fromkeys(all_ids), REBALANCE) if options.wants(id_))
        return
    found = {}
    for batch in wanted:
        began, busy = time.monotonic(), _busy_seconds()
        speeds = found[batch] = compare(batch, seconds=3 if options.quick else 8, rounds=1 if options.quick else 3)
        used = (_busy_seconds() - busy) / (time.monotonic() - began)
        yield from _speed_figures(batch, speeds, used)
    if found:
        steps = sum(speeds.dynamic_steps for speeds in found.values())
        changes = sum(speeds.dynamic_changes for speeds in found.values())
        note = f"{changes} in {steps} steps at steady quotas"
        yield at_most(PLAN_CHANGES, 100 * changes / steps, 1, "", note=note)
    if options.wants(REBALANCE):
        yield _rebalance(options)


def _ids(batch: int) -> tuple[str, ...]:
    """Return the figures that a comparison with one global batch gives."""
    names = ("dynamic", "static", "equal", "ddp_equal")
    more = (AGAINST_DDP,) if batch == 1024 else ()
    return (*(f"{name}_of_ideal_{batch}" for name in names), *more, PLAN_CHANGES)


def _speed_figures(batch: int, speeds: Speeds, used: float) -> Iterator[Figure]:
    dynamic = speeds.of_ideal(speeds.by_policy["dynamic"])
    ideal = f"{median(speeds.ideals):.0f} samples/s of the three ranks alone"
    note = (
        f"{speeds.factors(batch)}; {len(dynamic)} rounds, {min(dynamic):.3f} to {max(dynamic):.3f}; "
        f"{used:.2f} of {psutil.cpu_count()} CPUs busy, {sum(QUOTAS):.3g} of them by the ranks"
    )
    yield at_least(f"dynamic_of_ideal_{batch}", median(dynamic), GOALS[batch], anchor=ideal, note=note)
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
    from benchmarks.trainer_ddp import DdpRun

    speeds = Speeds()
    with contextlib.ExitStack() as stack:
        limits = stack.enter_context(quotas())
        alone = _start_alone(stack, limits, global_batch)
        ddp = stack.enter_context(DdpRun(limits, global_batch))
        group = stack.enter_context(trainer_run(len(QUOTAS), command_line(global_batch, "dynamic"), quotas=limits))
        group.go()
        group.run_steps(LEARNING_STEPS)
        usual = median(event.duration for event in group.of(Step, 0)[-3:])
        group.pause()
        steps = max(3, round(seconds / usual))
        speeds.solo.append(_measure_alone(alone, steps))
        for _ in range(rounds):
            group.resume()
            for policy in POLICIES:
                group.change_policy(policy)
                wanted = max(3, steps // SHORTER_WHEN_EQUAL) if policy == "equal" else steps
                window = group.run_steps(wanted + SKIPPED_STEPS)[SKIPPED_STEPS:]
                chosen = group.steps_in(window)
                speeds.by_policy[policy].append(throughput(chosen))
                if policy == "dynamic":
                    speeds.dynamic_steps += len(chosen)
                    speeds.dynamic_changes += _changes(group.of(Shares), window)
                    _add_times(speeds, group, window)
            group.pause()
            speeds.ddp.append(ddp.measure(max(3, steps // SHORTER_WHEN_EQUAL)))
            speeds.solo.append(_measure_alone(alone, steps))
        for run in (group, *alone):
            run.stop()
    return speeds


def _add_times(speeds: Speeds, run: Cluster, window: range) -> None:
    """Keep what every rank computed in the steps of a window that all ranks have told."""
    by_rank = [{event.step: event for event in run.of(Step, rank)} for rank in range(len(QUOTAS))]
    for step in window:
        told = [events[step] for events in by_rank if step in events]
        if len(told) == len(QUOTAS):
            speeds.compute.append(tuple(event.data + event.compute for event in told))
            speeds.durations.append(told[0].duration)


def _start_alone(stack: contextlib.ExitStack, limits: Sequence[CpuQuota], global_batch: int) -> list[Cluster]:
    """Start one run of one rank in each quota; they stand still until they are measured.

    Each has the part of the global batch that its quota can carry, so its steps are as long as in the group.
    """
    total = sum(limit.cpus for limit in limits)
    runs = []
    for limit in limits:
        batch = max(1, round(global_batch * limit.cpus / total))
        options = command_line(batch, "static", "--no-elastic")
        runs.append(stack.enter_context(trainer_run(1, options, quotas=[limit])))
    for run in runs:
        run.go()
    for run in runs:
        run.wait_for_step(1)
        run.pause()
    return runs


def _measure_alone(runs: Sequence[Cluster], steps: int) -> list[float]:
    """Return the ranks' speeds when each trains alone, all at the same time."""
    for run in runs:
        run.resume()
    # All train before any is measured, and none stands still before all are measured.
    begins = [run.newest_step() + 1 + SKIPPED_STEPS for run in runs]
    for run, begin in zip(runs, begins, strict=True):
        run.wait_for_step(begin + steps - 1)
    for run in runs:
        run.pause()
    return [throughput(run.steps_in(range(begin, begin + steps))) for run, begin in zip(runs, begins, strict=True)]


def _changes(told: Sequence[Shares], window: range) -> int:
    """Return how often the plan changed on its own within some steps; changing the policy is not counted."""
    return sum(event.step in window and not event.reason.startswith("policy changed") for event in told)


REBALANCE_BATCH: Final = 256
REBALANCE_STEPS: Final = 25
NEAR: Final = 0.10
"""Shares count as right when each is this near, or two samples near, to the one the run ends up with."""


def _rebalance(options: Options) -> Figure:
    """Halve and restore the fastest rank's quota again and again while it trains."""
    changes = 2 if options.quick else 20
    length = 15 if options.quick else REBALANCE_STEPS
    settled = []
    with quotas() as limits, trainer_run(len(QUOTAS), command_line(REBALANCE_BATCH, "dynamic"), quotas=limits) as run:
        run.go()
        run.run_steps(length)
        for change in range(changes):
            limits[0].set(QUOTAS[0] * (0.5 if change % 2 == 0 else 1.0))
            window = run.run_steps(length)
            settled.append(steps_to_settle(_shares_in(run, window)))
        run.stop()
    note = f"{changes} changes, slowest {max(settled)}"
    return at_most(REBALANCE, median(settled), 5, "steps", anchor="shares the run ends up with", note=note)


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
