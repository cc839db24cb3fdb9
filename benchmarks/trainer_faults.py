"""What losing a rank costs, how soon it is back, and what being able to lose one costs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from benchmarks import trainer_network, trainer_peers
from benchmarks.report import Figure, Options, at_most, failed, measured, skipped
from benchmarks.trainer_balance import command_line
from benchmarks.trainer_cluster import Cluster, RunFailed, trainer_run
from benchmarks.trainer_network import Network
from benchmarks.trainer_peers import DidNotGoOn, Fault, Peer
from trainer.events import Step

RANKS: Final = 3
SPEED: Final = 160.0
"""Simulated samples/s of each rank: steps of 100 ms that need little of the processor."""
BATCH: Final = 48
LOST: Final = 2
TURN_STEPS: Final = 16
FIRST_STRIKE: Final = 60
"""Step of the first fault: an agent does not bring back a rank that dies in its first seconds."""

PEERS: Final[tuple[Peer, ...]] = ("torchft", "torchrun")
FAULTS: Final[tuple[Fault, ...]] = ("kill", "stop", "link")

OVERHEAD: Final = "elastic_overhead_100ms"
KILLED, STOPPED, UNPLUGGED, REJOINED = "pause_kill_s", "pause_stop_s", "pause_link_s", "rejoin_s"
UNPLUGGED_SLOW, CUT = "pause_link_20mbit_s", "pause_workers_cut_s"
SLOW_MEGABITS: Final = 20.0
"""So slow that a message is always under way when something happens."""


def figures(options: Options) -> Iterator[Figure]:
    """Measure everything about lost ranks."""
    if options.wants(OVERHEAD):
        yield _overhead(options)
    if options.wants(KILLED, REJOINED):
        yield from _killed(options)
    if options.wants(STOPPED):
        yield _stopped(options)
    for id_, measure in ((UNPLUGGED, _unplugged), (UNPLUGGED_SLOW, _unplugged_slow), (CUT, _cut)):
        if options.wants(id_):
            reason = trainer_network.unavailable()
            yield skipped(id_, reason, "s") if reason else measure(options)

    yield from _peers(options)


def _peers(options: Options) -> Iterator[Figure]:
    """Let torchft and torchrun suffer the same faults; torchrun is left out of a quick run, for it takes minutes."""
    for peer in PEERS[:1] if options.quick else PEERS:
        # torchrun's pauses are so long that one of each has to do.
        repeats = _repeats(options) if peer == "torchft" else 1
        for fault in FAULTS:
            id_ = f"{peer}_pause_{fault}_s"
            if not options.wants(id_):
                continue
            reason = trainer_network.unavailable() if fault == "link" else ""
            yield skipped(id_, reason, "s") if reason else _peer(id_, peer, fault, repeats)


def _peer(id_: str, peer: Peer, fault: Fault, repeats: int) -> Figure:
    anchor = "the trainer's own figure of the same run"
    try:
        pauses = [trainer_peers.pause(peer, fault) for _ in range(repeats)]
        note = f"{repeats} runs, {min(pauses):.2f} to {max(pauses):.2f} s"
        return measured(id_, median(pauses), "s", anchor=anchor, note=note)
    except DidNotGoOn as error:
        return measured(id_, trainer_peers.LONGEST_SECONDS, "s", anchor=anchor, note=f"a lower bound: {error}")
    except RunFailed as error:
        print(f"{id_}: {error}", file=sys.stderr, flush=True)
        return failed(id_, str(error).splitlines()[0], "s")


def _options(*more: str) -> list[str]:
    return command_line(BATCH, "static", *more)


def _repeats(options: Options) -> int:
    return 1 if options.quick else 3


def _overhead(options: Options) -> Figure:
    """Train with and without elasticity in turns; the one without a turn stands still."""
    rounds = 2 if options.quick else 12
    speeds = [SPEED] * RANKS
    with (
        trainer_run(RANKS, _options("--elastic"), speeds=speeds) as elastic,
        trainer_run(RANKS, _options("--no-elastic"), speeds=speeds) as plain,
    ):
        runs = (elastic, plain)
        for run in runs:
            run.go()
        for run in runs:
            run.wait_for_step(4)
            run.pause()
        found: list[list[float]] = [[], []]
        for _ in range(rounds):
            for run, durations in zip(runs, found, strict=True):
                run.resume()
                window = run.run_steps(TURN_STEPS)[1:]
                durations += [event.duration for event in run.steps_in(window)]
                run.pause()
        with_it, without = map(median, found)
        for run in runs:
            run.stop()
    anchor = f"{1000 * without:.1f} ms a step with --no-elastic, in turns"
    return at_most(OVERHEAD, with_it / without - 1, 0.03, "x", anchor=anchor, note=f"{len(found[0])} steps of each")


def pause_around(ends: Sequence[float], struck: float, usual: float) -> float:
    """Return how long a survivor stood still: the longest gap between two ends of steps, less one usual step.

    Args:
        ends: When each step of the survivor ended, rising.
        struck: When the fault happened, on the same clock. A step that began before may still end after it.
        usual: Seconds of a step of the smaller group.
    """
    gaps = [later - earlier for earlier, later in pairwise(ends) if later > struck]
    return max(0.0, max(gaps) - usual)


def _strike(run: Cluster, step: int, fault: Callable[[], float]) -> tuple[float, float]:
    """Let a fault happen after a step; return when it did and how long rank 0 stood still."""
    run.wait_for_step(step)
    struck = fault()
    run.wait_for(lambda: sum(event.time > struck for event in run.of(Step, 0)) >= 6, "steps after the fault", 60)
    steps = run.of(Step, 0)
    usual = median(event.duration for event in steps[-3:])
    return struck, pause_around([event.time for event in steps], struck, usual)


def _killed(options: Options) -> Iterator[Figure]:
    """Kill a rank: the others go on, and its agent brings it back."""
    pauses, returns = [], []
    for repeat in range(_repeats(options)):
        with trainer_run(RANKS, _options("--elastic"), speeds=[SPEED] * RANKS) as run:
            run.go()
            struck, pause = _strike(run, FIRST_STRIKE + repeat, lambda run=run: run.kill(LOST, signal.SIGKILL))  # type: ignore[misc]
            pauses.append(pause)
            returns.append(_time_to_return(run, struck))
            run.stop()
    note = f"{len(pauses)} runs, longest"
    if options.wants(KILLED):
        yield at_most(KILLED, median(pauses), 0.2, anchor="SIGKILL to one of three", note=f"{note} {max(pauses):.3f} s")
    if options.wants(REJOINED):
        anchor = "SIGKILL to the first step of the same rank again"
        yield at_most(REJOINED, median(returns), 6.0, anchor=anchor, note=f"{note} {max(returns):.1f} s")


def _time_to_return(run: Cluster, struck: float) -> float:
    """Return the seconds until the killed rank begins its first step of its second life."""

    def steps() -> list[Step]:
        # A step that ended at the very moment of the kill can be told a little later, but no second one.
        return [event for event in run.of(Step, LOST) if event.time > struck + event.duration]

    run.wait_for(lambda: bool(steps()), "the killed rank's first step after its return", 120)
    first = steps()[0]
    return first.time - first.duration - struck


def _stopped(options: Options) -> Figure:
    """Stop a rank's process: its sockets stay open and it says nothing."""
    pauses = []
    for repeat in range(_repeats(options)):
        with trainer_run(RANKS, _options("--elastic"), speeds=[SPEED] * RANKS) as run:
            run.go()
            pauses.append(_strike(run, 8 + repeat, lambda run=run: run.kill(LOST, signal.SIGSTOP))[1])  # type: ignore[misc]
    note = f"{len(pauses)} runs, longest {max(pauses):.2f} s"
    return at_most(STOPPED, median(pauses), 2.5, anchor="SIGSTOP to one of three", note=note)


def _unplugged(options: Options) -> Figure:
    """Pull a host's cable at the switch."""
    anchor = "one of three cables pulled at the switch"
    return _link_fault(UNPLUGGED, options, lambda network: network.unplug(LOST), 2.5, anchor)


def _unplugged_slow(options: Options) -> Figure:
    """Pull a host's cable while a message is half way: what Gloo never wakes its waiter for."""
    anchor = f"one of three cables of {SLOW_MEGABITS:g} Mbit/s pulled at the switch, in the middle of a message"
    return _link_fault(UNPLUGGED_SLOW, options, lambda network: network.unplug(LOST), 6.0, anchor, SLOW_MEGABITS)


def _cut(options: Options) -> Figure:
    """Cut the network between two workers that both reach the master."""
    anchor = "no packet between the workers of three hosts"
    return _link_fault(CUT, options, lambda network: network.cut(LOST - 1, LOST), 2.5, anchor)


def _link_fault(
    id_: str,
    options: Options,
    fault: Callable[[Network], None],
    limit: float,
    anchor: str,
    megabits: float | None = None,
) -> Figure:
    pauses = []
    for repeat in range(_repeats(options)):
        with (
            Network(RANKS, megabits) as network,
            trainer_run(RANKS, _options("--elastic"), speeds=[SPEED] * RANKS, network=network) as run,
        ):

            def strike(network: Network = network) -> float:
                fault(network)
                return time.time()

            run.go()
            pauses.append(_strike(run, 8 + repeat, strike)[1])
    note = f"{len(pauses)} runs, longest {max(pauses):.2f} s"
    return at_most(id_, median(pauses), limit, anchor=anchor, note=note)
