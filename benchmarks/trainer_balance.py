"""How much of the sum of solo speeds each way of sharing reaches, on three ranks with quotas of one CPU.

The quotas add up to less than one CPU, so one busy neighbour on a machine with two does not distort the ratios.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import psutil

from benchmarks import trainer_quota
from benchmarks.report import Figure, Options, at_least, at_most, measured, skipped
from benchmarks.trainer_cluster import TrainerRun, throughput
from benchmarks.trainer_quota import CpuQuota
from trainer.events import Shares, Step
from trainer.plan import efficiency

QUOTAS: Final = (0.5, 0.25, 0.125)
POLICIES: Final = ("equal", "static", "dynamic")
ENDLESS: Final = 1_000_000
SKIPPED_STEPS: Final = 2
"""Steps after a change of policy that are not counted: the command arrives somewhere in the middle of them."""

IDS: Final = (
    "dynamic_of_ideal_1024",
    "dynamic_of_ideal_256",
    "dynamic_vs_ddp_equal_1024",
    "plan_changes_per_100_steps",
)
REBALANCE: Final = "steps_to_rebalance"


@dataclass(slots=True)
class Speeds:
    """Samples per second of one global batch, everything measured in one run of the benchmark."""

    solo: list[list[float]] = field(default_factory=list)
    """Each rank training alone, all at the same time, before and after the rest."""
    ddp: float = 0.0
    by_policy: dict[str, list[float]] = field(default_factory=dict)
    dynamic_steps: int = 0
    dynamic_changes: int = 0
    compute: list[tuple[float, ...]] = field(default_factory=list)
    """Compute seconds of each rank in each counted step of ``dynamic``."""
    durations: list[float] = field(default_factory=list)
    """Seconds of the same steps."""

    @property
    def ideal(self) -> float:
        """Sum of the ranks' speeds alone, mean of the two measurements."""
        return sum(map(sum, self.solo)) / len(self.solo)

    def factors(self, global_batch: int) -> str:
        """Say where the rest of ``dynamic``'s speed went."""
        alone = [sum(speeds) / len(speeds) for speeds in zip(*self.solo, strict=True)]
        split = efficiency(self.compute, self.durations, global_batch, alone)
        return f"balance {split.balance:.3f} x jitter {split.jitter:.3f} x communication {split.communication:.3f}"

    def of(self, policy: str) -> float:
        """Median over the rounds."""
        return median(self.by_policy[policy])


def figures(options: Options) -> Iterator[Figure]:
    """Measure everything about balance under CPU quotas."""
    reason = trainer_quota.unavailable()
    if reason:
        yield from (skipped(id_, reason) for id_ in (*IDS, REBALANCE) if options.wants(id_))
        return
    if options.wants(*IDS):
        yield from _speed_figures(options)
    if options.wants(REBALANCE):
        yield _rebalance(options)


def _speed_figures(options: Options) -> Iterator[Figure]:
    began, busy = time.monotonic(), _busy_seconds()
    found = {
        1024: compare(1024, steps=4 if options.quick else 20, rounds=1 if options.quick else 4),
        256: compare(256, steps=6 if options.quick else 50, rounds=1 if options.quick else 4),
    }
    used = (_busy_seconds() - busy) / (time.monotonic() - began)
    note = f"{used:.2f} of {psutil.cpu_count()} CPUs busy, {sum(QUOTAS):.3g} of them by the ranks"
    for batch, goal in ((1024, 0.97), (256, 0.90)):
        speeds = found[batch]
        ideal = f"{speeds.ideal:.0f} samples/s of the three ranks alone"
        yield at_least(
            f"dynamic_of_ideal_{batch}",
            speeds.of("dynamic") / speeds.ideal,
            goal,
            anchor=ideal,
            note=f"{speeds.factors(batch)}; {note}",
        )
        for policy in ("static", "equal"):
            yield measured(f"{policy}_of_ideal_{batch}", speeds.of(policy) / speeds.ideal, "x", anchor=ideal)
        yield measured(f"ddp_equal_of_ideal_{batch}", speeds.ddp / speeds.ideal, "x", anchor=ideal)
    large = found[1024]
    ddp = f"{large.ddp:.0f} samples/s of DistributedDataParallel, equal batches"
    yield at_least("dynamic_vs_ddp_equal_1024", large.of("dynamic") / large.ddp, 2.25, anchor=ddp)
    steps = sum(speeds.dynamic_steps for speeds in found.values())
    changes = sum(speeds.dynamic_changes for speeds in found.values())
    yield at_most(
        "plan_changes_per_100_steps", 100 * changes / steps, 1, "", note=f"{changes} in {steps} steps at steady quotas"
    )


def _busy_seconds() -> float:
    """Return the processor time the whole machine has used: other work on it makes the figures worthless."""
    times = psutil.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def quotas(parts: Sequence[float] = QUOTAS) -> Iterator[list[CpuQuota]]:
    """Give one control group for each part of a CPU, removed afterwards."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(CpuQuota(str(rank), cpus)) for rank, cpus in enumerate(parts)]


def command_line(global_batch: int, policy: str, *more: str) -> list[str]:
    """Return the trainer's options for a run that lasts until it is stopped, without a shorter last step."""
    return [
        "--workload", "simple_cnn", "--global-batch", str(global_batch), "--samples", str(4 * global_batch),
        "--epochs", str(ENDLESS), "--policy", policy, *more,
    ]  # fmt: skip


def compare(global_batch: int, steps: int, rounds: int) -> Speeds:
    """Measure ideal, peer and policies for one global batch; the policies take turns within one run."""
    from benchmarks.trainer_ddp import measure

    speeds = Speeds(by_policy={policy: [] for policy in POLICIES})
    with quotas() as limits:
        speeds.solo.append(solo(limits, global_batch, steps))
    with quotas() as limits, TrainerRun(len(QUOTAS), command_line(global_batch, "dynamic"), quotas=limits) as run:
        run.go()
        # The first steps learn the speeds; they are not what a steady cluster does.
        run.run_steps(max(4, steps // 2))
        for _ in range(rounds):
            for policy in POLICIES:
                run.change_policy(policy)
                window = run.run_steps(steps + SKIPPED_STEPS)[SKIPPED_STEPS:]
                chosen = [event for event in run.of(Step, 0) if event.step in window]
                speeds.by_policy[policy].append(throughput(chosen))
                if policy == "dynamic":
                    speeds.dynamic_steps += len(chosen)
                    speeds.dynamic_changes += _changes(run.of(Shares), window)
                    _add_times(speeds, run, window)
        run.stop()
    with quotas() as limits:
        speeds.ddp = measure(limits, global_batch, steps)
    with quotas() as limits:
        speeds.solo.append(solo(limits, global_batch, steps))
    return speeds


def _add_times(speeds: Speeds, run: TrainerRun, window: range) -> None:
    """Keep what every rank computed in the steps of a window that all ranks have told."""
    by_rank = [{event.step: event for event in run.of(Step, rank)} for rank in range(len(QUOTAS))]
    for step in window:
        told = [events[step] for events in by_rank if step in events]
        if len(told) == len(QUOTAS):
            speeds.compute.append(tuple(event.data + event.compute for event in told))
            speeds.durations.append(told[0].duration)


def solo(limits: Sequence[CpuQuota], global_batch: int, steps: int) -> list[float]:
    """Return the ranks' speeds when each trains alone, all at the same time.

    Each has the part of the global batch that its quota can carry, so its steps are as long as in the group.
    """
    total = sum(limit.cpus for limit in limits)
    with contextlib.ExitStack() as stack:
        runs = []
        for limit in limits:
            batch = max(1, round(global_batch * limit.cpus / total))
            options = command_line(batch, "static", "--no-elastic")
            runs.append(stack.enter_context(TrainerRun(1, options, quotas=[limit])))
        for run in runs:
            run.go()
        # All train before any is measured, and none ends before all are measured.
        for run in runs:
            run.wait_for_step(1)
        windows = [run.newest_step() + 1 for run in runs]
        for run, begin in zip(runs, windows, strict=True):
            run.wait_for_step(begin + steps - 1)
        found = [
            throughput([event for event in run.of(Step, 0) if begin <= event.step < begin + steps])
            for run, begin in zip(runs, windows, strict=True)
        ]
        for run in runs:
            run.stop()
    return found


def _changes(told: Sequence[Shares], window: range) -> int:
    """Return how often the plan changed on its own within some steps; changing the policy is not counted."""
    return sum(event.step in window and not event.reason.startswith("policy changed") for event in told)


REBALANCE_BATCH: Final = 256
REBALANCE_STEPS: Final = 40
NEAR: Final = 0.10
"""Shares count as right when each is this near, or two samples near, to the one the run ends up with."""


def _rebalance(options: Options) -> Figure:
    """Halve and restore the fastest rank's quota again and again while it trains."""
    changes = 2 if options.quick else 20
    length = 15 if options.quick else REBALANCE_STEPS
    settled = []
    with quotas() as limits, TrainerRun(len(QUOTAS), command_line(REBALANCE_BATCH, "dynamic"), quotas=limits) as run:
        run.go()
        run.run_steps(length)
        for change in range(changes):
            limits[0].set(QUOTAS[0] * (0.5 if change % 2 == 0 else 1.0))
            window = run.run_steps(length)
            settled.append(steps_to_settle(_shares_in(run, window)))
        run.stop()
    note = f"{changes} changes, slowest {max(settled)}"
    return at_most(REBALANCE, median(settled), 5, "steps", anchor="shares the run ends up with", note=note)


def _shares_in(run: TrainerRun, window: range) -> list[tuple[int, ...]]:
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
