"""Whether a second machine behind a slow link pays: each way of exchanging gradients against one machine alone.

``python -m benchmarks.trainer --only auto_100mbit`` measures one of them. The link of 1000 Mbit/s is held down by the
emulation itself (about half of it arrives), so its figures are a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, median
from typing import Final

from benchmarks import trainer_network, trainer_quota
from benchmarks.report import Figure, Options, measured, skipped
from benchmarks.trainer_balance import LEARNING_STEPS, command_line, quotas
from benchmarks.trainer_cluster import Cluster, throughput, trainer_run
from benchmarks.trainer_network import Network
from benchmarks.trainer_quota import CpuQuota
from trainer.events import Notice, Step

PARTS: Final = (0.4, 0.4)
"""Two alike ranks, so the most that two machines can bring is 2.0."""
BELIEVABLE: Final = 2.04
BATCH: Final = 256
LINKS: Final = (100, 1000, 30)
"""Mbit/s, both ways."""
MODES: Final = ("auto", "exact", "bf16", "powersgd", "local_sgd")
GOAL: Final = ("auto", 100, 1.5)
SECONDS: Final = 10.0


def _id(mode: str, megabits: int) -> str:
    return f"{mode}_{megabits}mbit_vs_best_single"


def figures(options: Options) -> Iterator[Figure]:
    """Measure training over slow links."""
    wanted = [(mode, link) for link in LINKS for mode in MODES if options.wants(_id(mode, link))]
    if not wanted:
        return
    reason = trainer_network.unavailable() or trainer_quota.unavailable()
    if reason:
        yield from (skipped(_id(mode, link), reason, "x") for mode, link in wanted)
        return
    # It imports torch, which a benchmark of something else need not wait for.
    from benchmarks.trainer_alone import AloneRun

    seconds = 3.0 if options.quick else SECONDS
    with quotas(PARTS) as limits, AloneRun(limits[:1], [BATCH], trial_seconds=seconds / 3) as single:
        for mode, link in wanted:
            before = single.measure(seconds)[0]
            speed, note = _train(mode, link, seconds, limits)
            alone = mean((before, single.measure(seconds)[0]))
            yield _figure(mode, link, speed / alone, f"{alone:.0f} samples/s of one rank alone in a plain loop", note)


def _figure(mode: str, link: int, ratio: float, anchor: str, note: str) -> Figure:
    if (mode, link) != GOAL[:2]:
        return measured(_id(mode, link), ratio, "x", anchor=anchor, note=note, ceiling=BELIEVABLE)
    return measured(
        _id(mode, link), ratio, "x", comparison=">", goal=GOAL[2], anchor=anchor, note=note, ceiling=BELIEVABLE
    )


def _train(mode: str, link: int, seconds: float, limits: Sequence[CpuQuota]) -> tuple[float, str]:
    """Return the samples per second of two ranks behind a link, and what their steps are made of."""
    arguments = command_line(BATCH, "dynamic", "--communication", mode)
    with (
        Network(len(PARTS), float(link)) as network,
        trainer_run(len(PARTS), arguments, quotas=limits, network=network) as run,
    ):
        run.go()
        run.run_steps(LEARNING_STEPS)
        usual = median(event.duration for event in run.of(Step, 0)[-5:])
        window = run.run_steps(max(8, round(seconds / usual)))
        speed = throughput(run.steps_in(window))
        note = _parts(run, window)
        run.stop()
    return speed, note


def _parts(run: Cluster, window: range) -> str:
    steps = run.steps_in(window)
    parts = ", ".join(
        f"{name} {1000 * median(getattr(event, name) for event in steps):.0f}"
        for name in ("compute", "data", "wait", "communication", "duration")
    )
    told = [event.text for event in run.of(Notice) if event.text.startswith("gradients travel as")]
    return f"ms a step: {parts}{'; ' if told else ''}{''.join(told[:1])}"
