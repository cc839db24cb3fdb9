"""Who holds the others up, why, and what it costs; what the run would be without a host. Pure, from measured speeds.

A synchronous step lasts as long as its slowest rank. The straggler is the rank whose own part of the step (data and
compute) is longest; what it costs is what the cluster would gain if it were as quick as the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final

from hetero_tui.formats import percent, rate, short_seconds
from hetero_tui.views import ClusterView, RankState, RankView
from trainer.plan import solve_shares
from trainer.time_table import TimeTable

NOTICEABLE: Final = 0.03
"""Part of a step that others must lose before somebody is called a straggler."""
SLOWER: Final = 0.85
"""A rank below this part of the speed it was planned with has become slower."""
BUSY_PERCENT: Final = 60.0
"""Use of a machine's processor above which something may get in the way of feeding a GPU."""
DATA_PART: Final = 0.25
"""Part of a rank's own time that loading data may take."""
SLOW_LINK: Final = 0.5
"""A link below this part of the others' middle speed is slow."""
TRAINING: Final = (RankState.TRAINING, RankState.WAITING)


class Cause(StrEnum):
    """Why a rank is late, in the words that are shown."""

    THROTTLED = "throttled"
    DATA = "data loading"
    LINK = "slow link"
    LOAD = "other load on the machine"
    DEVICE = "slow device"
    SHARE = "share too large for its speed"


@dataclass(frozen=True, slots=True)
class Straggler:
    """The rank the others wait for."""

    rank: int
    host: str
    cause: Cause
    evidence: str
    """The measurements that say so."""
    late: float
    """Seconds in each step that the next slowest rank waits for it."""
    cost: float
    """Samples/s that the cluster would gain if it were as quick as the next slowest rank."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The run without one host, by the speeds measured now and the best shares for the ranks that are left."""

    host: str
    samples_per_second: float
    """Predicted."""
    change: float
    """Of the predicted throughput with all hosts, as a fraction: -0.1 is ten percent less."""
    shares: Mapping[int, int]

    @property
    def cost(self) -> float:
        """Predicted samples/s that the host contributes; negative where the others are quicker without it."""
        return -self.samples_per_second * self.change / (1 + self.change)


def own_seconds(view: RankView) -> float:
    """Return the seconds of a step that are the rank's own: waiting for data, and computing."""
    return view.step_seconds * (view.parts.compute + view.parts.data)


def straggler(views: Sequence[RankView], cluster: ClusterView) -> Straggler | None:
    """Name the rank that the others wait for; ``None`` when nobody loses a noticeable part of a step."""
    training = sorted((view for view in views if view.state in TRAINING and view.step_seconds > 0), key=own_seconds)
    if len(training) < 2:
        return None
    slow, rest = training[-1], training[:-1]
    late = own_seconds(slow) - own_seconds(rest[-1])
    whole = slow.step_seconds
    waited = sum(view.parts.wait for view in rest) / len(rest)
    if whole <= 0 or late <= 0 or (late / whole < NOTICEABLE and waited < 2 * NOTICEABLE):
        return None
    cause, evidence = _cause(slow, rest)
    cost = cluster.samples_per_second * (whole / max(1e-9, whole - late) - 1)
    return Straggler(slow.rank, slow.host, cause, evidence, late, cost)


def _cause(slow: RankView, rest: Sequence[RankView]) -> tuple[Cause, str]:
    if slow.throttle_reasons:
        return Cause.THROTTLED, ", ".join(slow.throttle_reasons)
    own = slow.parts.compute + slow.parts.data
    data = slow.parts.data / own if own else 0.0
    if data > DATA_PART and data > 2 * median(_data_part(view) for view in rest):
        return Cause.DATA, f"{percent(data)} of its own time is waiting for input data"
    links = [view.link_bytes_per_second for view in rest if view.link_bytes_per_second > 0]
    link = slow.link_bytes_per_second
    if links and 0 < link < SLOW_LINK * median(links) and slow.parts.communication > own:
        return Cause.LINK, f"its link moves {link / 1e6:.1f} MB/s, the others' {median(links) / 1e6:.1f} MB/s"
    label = " (simulated)" if slow.simulated else ""
    if slow.planned_speed > 0 and slow.speed < SLOWER * slow.planned_speed:
        text = f"{rate(slow.speed)} samples/s{label}, planned with {rate(slow.planned_speed)}"
        busy = slow.machine_percent
        if busy is not None and busy >= BUSY_PERCENT and not slow.simulated:
            return Cause.LOAD, f"{text}; the machine's processor is {busy:.0f} % busy"
        return (Cause.DEVICE if slow.simulated else Cause.LOAD), f"{text}: it has become slower"
    middle = median(view.speed for view in rest)
    text = f"{rate(slow.speed)} samples/s{label}, the others {rate(middle)}"
    if slow.speed < middle / 1.5:
        return Cause.DEVICE, f"{text}; its {slow.share} samples take {short_seconds(own_seconds(slow))}"
    return Cause.SHARE, f"{text}; {slow.share} samples"


def _data_part(view: RankView) -> float:
    own = view.parts.compute + view.parts.data
    return view.parts.data / own if own else 0.0


def without_host(views: Sequence[RankView], cluster: ClusterView, host: str) -> WhatIf | None:
    """Predict the run without a host; ``None`` where speeds are not known or nothing would be left.

    The part of a step that is not computing (communication, optimizer) is taken to stay as it is.
    """
    known = [view for view in views if view.speed > 0 and (view.state in TRAINING or view.state is RankState.SPARE)]
    left = [view for view in known if view.host != host]
    if len(left) == len(known) or not left or cluster.global_batch <= 0:
        return None
    rest = min(
        max(0.0, view.step_seconds * (1 - view.parts.compute - view.parts.data - view.parts.wait)) for view in known
    )
    everybody, _ = _predicted(known, cluster.global_batch, rest)
    others, shares = _predicted(left, cluster.global_batch, rest)
    return WhatIf(host, others, others / everybody - 1, shares)


def _predicted(views: Sequence[RankView], global_batch: int, rest: float) -> tuple[float, dict[int, int]]:
    tables = [TimeTable.from_speed(view.speed) for view in views]
    shares = solve_shares(tables, global_batch)
    seconds = max(table.seconds(share) for table, share in zip(tables, shares, strict=True)) + rest
    return global_batch / seconds, {view.rank: share for view, share in zip(views, shares, strict=True)}
