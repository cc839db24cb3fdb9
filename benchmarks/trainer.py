"""The trainer's claims, each against its ideal or its peer in the same run: ``python -m benchmarks.trainer``.

Real agents and ranks on this machine. Needs root for CPU quotas (control groups) and slow links (namespaces); what
cannot be had is skipped with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from benchmarks import (
    trainer_balance,
    trainer_cuda,
    trainer_diloco,
    trainer_exchange,
    trainer_faults,
    trainer_link,
    trainer_pulled_tail,
    trainer_shared_cores,
    trainer_simulation,
)
from benchmarks.report import Figure, Options, at_least, failed, main
from benchmarks.trainer_cluster import RunFailed

CPU_GOALS = {256: 1.5, 1024: 2.0}


def figures(options: Options) -> Iterator[Figure]:
    """Measure everything; a part whose run breaks is told as failed, and the rest goes on."""
    parts: tuple[tuple[str, Callable[[Options], Iterator[Figure]]], ...] = (
        ("simulation", trainer_simulation.figures),
        ("shared cores", trainer_shared_cores.figures),
        ("cpu_settings", _cpu_settings),
        ("balance", trainer_balance.figures),
        ("faults", trainer_faults.figures),
        ("link", trainer_link.figures),
        ("exchange", trainer_exchange.figures),
        ("pulled tail", trainer_pulled_tail.figures),
        ("diloco", trainer_diloco.figures),
        ("cuda", trainer_cuda.figures),
    )
    for name, part in parts:
        try:
            yield from part(options)
        except RunFailed as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            yield failed(name, str(error).splitlines()[0])


def _cpu_settings(options: Options) -> Iterator[Figure]:
    wanted = [batch for batch in CPU_GOALS if options.wants(f"cpu_settings_speedup_{batch}")]
    if not wanted:
        return
    from benchmarks.trainer_cpu import speedups

    for batch, ratio in speedups(wanted, rounds=3 if options.quick else 15).items():
        yield at_least(
            f"cpu_settings_speedup_{batch}", ratio, CPU_GOALS[batch], anchor="default allocator, one piece, turns about"
        )


if __name__ == "__main__":
    sys.exit(main("trainer", figures))
