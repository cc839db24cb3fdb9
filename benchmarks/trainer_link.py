"""Whether a second machine behind a slow link pays: ``--communication auto`` over 100 Mbit/s against one machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks import trainer_network, trainer_quota
from benchmarks.report import Figure, Options, measured, skipped
from benchmarks.trainer_balance import command_line, quotas
from benchmarks.trainer_cluster import throughput, trainer_run
from benchmarks.trainer_network import Network

ID: Final = "auto_100mbit_vs_best_single"
PARTS: Final = (0.4, 0.4)
"""Two alike ranks, so the most that two machines can bring is 2.0."""
BATCH: Final = 256
MEGABITS: Final = 100.0


def figures(options: Options) -> Iterator[Figure]:
    """Measure training over a slow link."""
    if not options.wants(ID):
        return
    reason = trainer_network.unavailable() or trainer_quota.unavailable()
    if reason:
        yield skipped(ID, reason, "x")
        return
    steps = 5 if options.quick else 40
    with quotas(PARTS[:1]) as limits, trainer_run(1, command_line(BATCH, "static"), quotas=limits) as run:
        run.go()
        run.wait_for_step(2)
        alone = throughput(run.steps_in(run.run_steps(steps)))
        run.stop()
    found = {}
    with Network(len(PARTS), MEGABITS) as network:
        for communication in ("auto", "exact"):
            arguments = command_line(BATCH, "dynamic", "--communication", communication)
            with (
                quotas(PARTS) as limits,
                trainer_run(len(PARTS), arguments, quotas=limits, network=network) as run,
            ):
                run.go()
                run.wait_for_step(4)
                found[communication] = throughput(run.steps_in(run.run_steps(steps)))
                run.stop()
    anchor = f"{alone:.0f} samples/s of one rank alone"
    yield measured(ID, found["auto"] / alone, "x", comparison=">", goal=1.5, anchor=anchor)
    yield measured("exact_100mbit_vs_best_single", found["exact"] / alone, "x", anchor=anchor)
