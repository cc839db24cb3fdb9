"""A run that makes no step any more is told as hung: the one thing a dead GPU, disk or link cannot hide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from hetero_tui.store import Store
from hetero_tui.views import ClusterView, RankState, RankView, RunState

LOOK_SECONDS: Final = 1.0
LONGEST_LOOK: Final = 5.0
"""Of a longer time between two looks only so much counts: this program was suspended, as by a closed lid."""
_MAKES_STEPS: Final = (RunState.TRAINING, RunState.STALLED)
_NAMED: Final = 8


@dataclass(slots=True)
class Progress:
    """When a run made its last step. Pure; time is passed in."""

    patience: float
    """Seconds."""
    _step: int = -1
    _since: float = 0.0
    _told: bool = False

    def look(self, view: ClusterView, now: float) -> float:
        """Return for how many seconds the run has hung, once for each time it hangs; else 0.

        Args:
            view: how the run stands.
            now: seconds on a clock that never goes back.
        """
        if view.step != self._step or view.state not in _MAKES_STEPS:
            self._step, self._since, self._told = view.step, now, False
            return 0.0
        waited = now - self._since
        if self._told or waited < self.patience:
            return 0.0
        self._told = True
        return waited


def hung_text(waited: float, views: tuple[RankView, ...]) -> str:
    """Return who is silent and who still speaks: the silent ones are where to look first."""
    living = [view for view in views if not view.state.ended]
    silent = [view for view in living if view.state is RankState.NO_DATA]
    named = ", ".join(f"rank {view.rank} on {view.host}" for view in (silent or living)[:_NAMED])
    who = f"silent: {named}" if silent else f"all ranks still speak ({named}): one of them hangs in its device"
    return f"no step for {waited:.0f} s; {who}. Stop the run and resume it, or wait"


async def watch_progress(
    store: Store,
    patience: float,
    *,
    is_heard: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Note in the store when its run has made no step for ``patience`` seconds. Runs until cancelled.

    Only time counts in which a step would have been heard of: ``is_heard`` tells whether any host is in contact.
    """
    progress = Progress(patience)
    listened, looked = 0.0, clock()
    while True:
        before, looked = looked, clock()
        listened += min(looked - before, LONGEST_LOOK) if is_heard() else 0.0
        if waited := progress.look(store.cluster_view(), listened):
            store.note(hung_text(waited, store.rank_views()), "error")
        await sleep(LOOK_SECONDS)
