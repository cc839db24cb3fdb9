"""Figures of the run as a whole, from what is known of its ranks. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from hetero_tui.views import Efficiency, RankState, RankView, RunState
from hetero_tui.windows import History, Totals

STEP_TALLIES: Final = 128
"""Steps of which every rank's part is remembered."""
IMPOSSIBLE: Final = 1.2
"""A part of the ideal beyond this says that ranks have just gone whose work is still in the rate."""
STEPS_LATE: Final = 4
"""A step this far back counts as complete even when a rank has not told of it: it has left, or its log is late."""


@dataclass(slots=True)
class _Tally:
    """One optimizer step over all ranks that have told of it."""

    ranks: int = 0
    computing: int = 0
    sum_compute: float = 0.0
    max_compute: float = 0.0
    counted: bool = False


class StepTallies:
    """How evenly the ranks computed each of the last steps."""

    def __init__(self) -> None:
        self._tallies: OrderedDict[int, _Tally] = OrderedDict()
        self.imbalance = History()
        """For each step: the slowest rank's compute time over the mean of all, minus one."""

    def add(self, step: int, compute: float, ranks: int) -> None:
        """Take in one rank's compute time, in seconds; ``ranks`` is how many are alive."""
        tally = self._tallies.get(step)
        if tally is None:
            tally = self._tallies[step] = _Tally()
            while len(self._tallies) > STEP_TALLIES:
                self._tallies.popitem(last=False)
            self._count_late(step)
        tally.ranks += 1
        if compute > 0:
            tally.computing += 1
            tally.sum_compute += compute
            tally.max_compute = max(tally.max_compute, compute)
        if tally.ranks >= ranks:
            self._count(step, tally)

    def _count_late(self, step: int) -> None:
        late = (known for known in reversed(self._tallies) if known <= step - STEPS_LATE)
        for known in islice(late, STEPS_LATE):
            self._count(known, self._tallies[known])

    def _count(self, step: int, tally: _Tally) -> None:
        if tally.counted or tally.computing < 2:
            return
        tally.counted = True
        points = self.imbalance
        if points.last_x is None or points.last_x < step:
            points.add(step, tally.max_compute / (tally.sum_compute / tally.computing) - 1)

    def go_back(self, step: int) -> None:
        """Forget what came after a checkpoint that was restored."""
        for known in [known for known in self._tallies if known > step]:
            del self._tallies[known]
        self.imbalance.forget_from(step)

    def slowest(self, ranks: int, steps: int) -> Sequence[float]:
        """Return the compute time of the slowest rank in up to ``steps`` steps that ``ranks`` ranks have told of."""
        complete = [tally.max_compute for tally in self._tallies.values() if tally.ranks >= ranks]
        return complete[-steps:] if steps > 0 else complete


def efficiency(totals: Collection[Totals], rate: float, ideal: float, tallies: StepTallies) -> Efficiency | None:
    """Return how much of the ideal is reached and where the rest goes; see :class:`Efficiency`.

    Args:
        totals: what each rank that trains did in the window.
        rate: samples/s of the cluster.
        ideal: what the ranks do per second while computing, added up.
        tallies: the last steps.
    """
    slowest = batch = 0.0
    steps = 0
    for each in totals:
        if each.steps:
            slowest = max(slowest, each.compute / each.steps)
            steps = max(steps, each.steps)
            batch = max(batch, each.global_batch / each.steps)  # an epoch's last batch may be short
    complete = tallies.slowest(len(totals), steps)
    mean_slowest = sum(complete) / len(complete) if complete else slowest
    if ideal <= 0 or slowest <= 0 or mean_slowest <= 0 or rate <= 0 or batch <= 0:
        return None
    # Ideal, balance and jitter as in the definition; communication is what is left, so the product is exact.
    total = rate / ideal
    if total > IMPOSSIBLE:
        return None
    balance = min(1.0, batch / ideal / slowest)
    jitter = min(1.0, slowest / mean_slowest)
    return Efficiency(total, balance, jitter, min(1.0, total / (balance * jitter)), ideal)


def run_state(views: Iterable[RankView]) -> tuple[RunState, str]:
    """Return how the run stands and that in words."""
    states = [view.state for view in views]
    failed = states.count(RankState.FAILED)
    left = states.count(RankState.LEFT)
    lost = f", {failed} rank{'s' if failed > 1 else ''} failed" if failed else ""
    lost += f", {left} rank{'s have' if left > 1 else ' has'} left" if left else ""
    if not states:
        return RunState.IDLE, "no run"
    if all(state.ended for state in states):
        if RankState.FINISHED in states:
            return RunState.FINISHED, "finished" + lost
        if RankState.STOPPED in states or RankState.LEFT in states:
            return RunState.STOPPED, "stopped" + lost
        return RunState.FAILED, "failed"
    live = [state for state in states if not state.ended]
    if RankState.PAUSED in live:
        return RunState.PAUSED, "paused" + lost
    if any(state in (RankState.TRAINING, RankState.WAITING) for state in live):
        return RunState.TRAINING, "training" + lost
    if any(state in (RankState.NO_DATA, RankState.STALLED) for state in live):
        return RunState.STALLED, "no data" + lost
    order = (
        RankState.STARTING,
        RankState.IMPORTING,
        RankState.WAITING_FOR_GO,
        RankState.JOINING,
        RankState.CALIBRATING,
        RankState.READY,
    )
    first = next((state for state in order if state in live), RankState.STARTING)
    return RunState.STARTING, first.value + lost
